"""Sweep of ways to colour: prior variants, mixing, confidence, inversion, counts, sizes. Prints as it goes."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import colorize_quality as cq  # noqa: E402
from dmt_ray.method import color  # noqa: E402
from dmt_ray.method.colorizer import is_grey  # noqa: E402
from dmt_ray.method.inversion.objective import invert_chroma  # noqa: E402
from dmt_ray.method.networks.feature_network import FeatureNetwork  # noqa: E402
from dmt_ray.method.pictures import working_rgb  # noqa: E402
from dmt_ray.method.traversal import patches as P  # noqa: E402
from dmt_ray.storage.files import list_files, read_bytes  # noqa: E402
from dmt_ray.storage.images import decode_image  # noqa: E402
from dmt_ray.storage.models.weights import resolve_weights  # noqa: E402

T0 = time.perf_counter()
TAPS = ("conv3_1", "conv4_1", "conv5_1")
LAYERS = ("conv2_2", "conv3_1", "conv3_3", "conv4_1", "conv4_3", "conv5_1")
RICH = ("conv2_2", "conv3_3", "conv4_3", "conv5_1")
G = 16


def say(*parts):
    print(f"[{time.perf_counter() - T0:6.1f}]", *parts, flush=True)


def load(paths, sizes):
    def one(path):
        rgb = decode_image(read_bytes(path), max_pixels=10**9)
        return [working_rgb(rgb, s) for s in sizes]

    with ThreadPoolExecutor(ARGS.threads) as pool:
        found = list(pool.map(one, paths))
    return [np.stack([f[k] for f in found]) for k in range(len(sizes))]


def to_planes(rgb):
    return torch.tensor(rgb).to(DEV).permute(0, 3, 1, 2).float()


@torch.no_grad()
def grid_maps(luma, layers=LAYERS, grid=G):
    """Maps per layer (N, C, grid, grid) half of luma (N, 1, h, w)."""
    parts = {name: [] for name in layers}
    for batch in luma.split(32):
        for name, m in zip(layers, NET(batch.expand(-1, 3, -1, -1) / 255, layers), strict=True):
            if m.shape[-1] > grid:
                m = F.adaptive_avg_pool2d(m, grid)
            elif m.shape[-1] < grid:
                m = F.interpolate(m, size=(grid, grid), mode="bilinear", align_corners=False)
            parts[name].append(m.half())
    return {name: torch.cat(p) for name, p in parts.items()}


def cell_chroma(images, grid=G):
    return F.adaptive_avg_pool2d(color.chroma(images), grid).flatten(2).transpose(1, 2)  # N, cells, 2


# ---------------------------------------------------------------- scores


def colourfulness(pictures):
    r, g, b = pictures.flatten(2).unbind(1)
    rg, yb = r - g, (r + g) / 2 - b
    return (rg.var(1) + yb.var(1)).sqrt() + 0.3 * (rg.mean(1).square() + yb.mean(1).square()).sqrt()


def upsample(cells, size, grid=G):
    planes = cells.transpose(1, 2).reshape(len(cells), 2, grid, grid)
    return F.interpolate(planes.float(), size=(size, size), mode="bilinear", align_corners=False)


def gains_of(luma, chroma, truth):
    pictures = color.to_rgb(luma, chroma).clamp(0, 255).round()
    grey = luma.expand_as(pictures).round()

    def psnr(a):
        return 10 * torch.log10(255**2 / (a - truth).square().flatten(1).mean(1).clamp_min(1e-6))

    return psnr(pictures) - psnr(grey), colourfulness(pictures) / colourfulness(truth).mean(), pictures


class Tally:
    def __init__(self):
        self.gain, self.cf, self.sat = [], [], []

    def add(self, luma, chroma, truth):
        gain, cf, pictures = gains_of(luma, chroma, truth)
        self.gain.append(gain.cpu())
        self.cf.append(cf.mean().cpu())
        self.sat.append((color.chroma(pictures).norm(dim=1).mean() / color.chroma(truth).norm(dim=1).mean()).cpu())
        return self

    def __str__(self):
        gain = torch.cat(self.gain)
        each = " ".join(f"{float(g.mean()):+.2f}" for g in self.gain)
        return (
            f"gain {float(gain.mean()):+.3f}  CF {float(torch.stack(self.cf).mean()):.3f}  worse "
            f"{100 * float((gain < 0).float().mean()):4.1f} %  sat {float(torch.stack(self.sat).mean()):.2f}  "
            f"worst {float(gain.min()):+.2f}  [{each}]"
        )

    @property
    def mean(self):
        return float(torch.cat(self.gain).mean())


# ---------------------------------------------------------------- the prior


class Inputs:
    """What the MLP sees: PCA of the layers' cells, scene, position, luma."""

    def __init__(self, maps, luma, layers, dims=512, scene=128, unit=False, whiten=0.0, sample=40000):
        self.layers, self.scene, self.unit = layers, scene, unit
        self.stats = {}
        for name in layers:
            m = maps[name].float()
            self.stats[name] = (m.mean((0, 2, 3), keepdim=True), m.std((0, 2, 3), keepdim=True).clamp_min(1e-4))
        raw = self.raw(maps)
        flat = raw.reshape(-1, raw.shape[-1])
        part = flat[torch.randperm(len(flat), generator=GEN)[:sample].to(DEV)].float()
        self.centre = part.mean(0)
        part = part - self.centre
        values, vectors = torch.linalg.eigh((part.T @ part / len(part)).double())
        take = min(dims, len(values))
        values, vectors = values[-take:].flip(0).float(), vectors[:, -take:].flip(1).float()
        scale = values.clamp_min(1e-9).sqrt()
        self.way = vectors / (scale**whiten * scale[:32].mean() ** (1 - whiten))

    def raw(self, maps):
        parts = []
        for name in self.layers:
            mean, dev = self.stats[name]
            m = (maps[name].float() - mean) / dev
            parts.append((F.normalize(m, dim=1) * 16 if self.unit else m).half())
        return torch.cat(parts, 1).flatten(2).transpose(1, 2)

    def __call__(self, maps, luma):
        n = len(luma)
        out = []
        for begin in range(0, n, 64):
            part = {k: v[begin : begin + 64] for k, v in maps.items()}
            x = (self.raw(part).float() - self.centre) @ self.way
            lum = luma[begin : begin + 64] / 255
            mean = F.adaptive_avg_pool2d(lum, G)
            dev = (F.adaptive_avg_pool2d(lum.square(), G) - mean.square()).clamp_min(0).sqrt()
            whole = torch.stack([lum.flatten(1).mean(1), lum.flatten(1).std(1)], 1)
            place = P.positions((G, G)).to(DEV)
            extra = torch.cat(
                [
                    mean.flatten(2).transpose(1, 2) * 4 - 2,
                    dev.flatten(2).transpose(1, 2) * 8,
                    whole[:, None].expand(-1, G * G, -1) * 4 - 2,
                    torch.cat([place, place.square()], 1)[None].expand(len(x), -1, -1),
                ],
                2,
            )
            scene = x[..., : self.scene].mean(1, keepdim=True).expand(-1, G * G, -1) * 2
            out.append(torch.cat([x, scene, extra], 2).half())
        return torch.cat(out)  # N, cells, d


class Ensemble(torch.nn.Module):
    def __init__(self, members, sizes, dropout, gen):
        super().__init__()
        self.dropout = dropout
        self.w, self.b = torch.nn.ParameterList(), torch.nn.ParameterList()
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            bound = (1 / a) ** 0.5
            w = (torch.rand(members, a, b, generator=gen) * 2 - 1) * bound * (3**0.5)
            self.w.append(torch.nn.Parameter(w))
            self.b.append(torch.nn.Parameter(torch.zeros(members, 1, b)))

    def forward(self, x):  # E, B, d
        for k, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            x = torch.baddbmm(b, x, w)
            if k < len(self.w) - 1:
                x = F.relu(x)
                if self.training and self.dropout:
                    x = F.dropout(x, self.dropout)
        return x


def train(x, y, *, members=3, hidden=(512, 256), dropout=0.5, epochs=6, batch=2048, lr=1.5e-3, loss="smooth", beta=1.0,
          unit=20.0, c=100.0, folds=False, noise=0.0, decay=1e-2, seed=0, heads=2, centres=None):
    """x (N, cells, d) half, y (N, cells, 2). Returns model."""
    torch.manual_seed(seed)
    n, cells, d = x.shape
    photo = torch.arange(n, device=DEV).repeat_interleave(cells)
    energy = y.square().sum(2).mean(1)
    weight = torch.ones(n, device=DEV)
    if "photo" in loss:
        weight = 1 / (energy + c)
        weight = weight / weight.mean()
    fx, fy = x.reshape(-1, d), y.reshape(-1, 2) / unit
    outputs = {"nll": 3, "photonll": 3}.get(loss, 2)
    labels = None
    if centres is not None:
        labels = torch.cdist(fy * unit, centres).argmin(1)
        outputs = len(centres)
    model = Ensemble(members, (d, *hidden, outputs), dropout, torch.Generator().manual_seed(seed)).to(DEV)
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, fused=DEV.type == "cuda")
    steps = epochs * (len(fx) // batch)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=steps, pct_start=0.15)
    model.train()
    done = 0
    for _ in range(epochs):
        order = torch.randperm(len(fx), device=DEV)
        for begin in range(0, len(fx) - batch + 1, batch):
            pick = order[begin : begin + batch]
            xb = fx[pick].float()
            if noise:
                xb = xb + noise * torch.randn_like(xb)
            w = weight[photo[pick]].expand(members, -1)
            if folds:
                w = w * (photo[pick] % members != torch.arange(members, device=DEV)[:, None])
            out = model(xb.expand(members, -1, -1))
            target = fy[pick].expand(members, -1, -1)
            if labels is not None:
                each = F.cross_entropy(out.flatten(0, 1), labels[pick].repeat(members), reduction="none")
                each = each.view(members, -1)
            elif "nll" in loss:
                s = out[..., 2].clamp(-6, 4)
                each = (target - out[..., :2]).square().sum(2) * torch.exp(-s) + 2 * s
            elif "l2" in loss:
                each = (out - target).square().sum(2)
            elif loss.endswith("l1"):
                each = (out - target).norm(dim=2)
            else:
                each = F.smooth_l1_loss(out, target, reduction="none", beta=beta).sum(2)
            value = (each * w).mean()
            opt.zero_grad(set_to_none=True)
            value.backward()
            opt.step()
            sched.step()
            done += 1
            if done >= steps:
                break
    model.eval()
    return model


@torch.no_grad()
def predict(model, x, unit=20.0, members=None):
    """Return (E, N, cells, outputs)."""
    n, cells, d = x.shape
    out = [model(part.reshape(-1, d).float().expand(len(model.w[0]), -1, -1)) for part in x.split(64)]
    out = torch.cat([o.view(len(model.w[0]), -1, cells, o.shape[-1]) for o in out], 1)
    return torch.cat([out[..., :2] * unit, out[..., 2:]], -1)


# ---------------------------------------------------------------- the neighbours


class Bank:
    """The program's own descriptors and neighbours, on the device."""

    def __init__(self, maps, chroma, taps=TAPS):
        self.taps = taps
        self.means = [maps[t].float().mean((0, 2, 3), keepdim=True) for t in taps]
        self.devs = [maps[t].float().std((0, 2, 3), keepdim=True).clamp_min(1e-4) for t in taps]
        raw = torch.cat([self.describe({t: maps[t][k : k + 64] for t in taps}) for k in range(0, len(chroma), 64)])
        flat = raw.reshape(-1, raw.shape[-1])
        self.projection = P.principal_directions(flat).to(DEV)
        desc = (raw.float() @ self.projection).half()
        self.scenes = P.describe_scene(desc.float())
        self.descriptors = desc.flatten(0, 1)
        self.owner = torch.arange(len(chroma), device=DEV).repeat_interleave(G * G)
        self.chroma = chroma.reshape(-1, 2)

    def describe(self, maps):
        return P.describe([maps[t].float() for t in self.taps], self.means, self.devs, (G, G)).half()

    def search(self, maps, k=128, width=0.1, scene=0.2, own=False, scenes=None):
        """Neighbours of all photos: index, weights (N, cells, k)."""
        found_i, found_w = [], []
        n = len(maps[self.taps[0]])
        for b in range(0, n, 64):
            q = self.describe({t: maps[t][b : b + 64] for t in self.taps}).float() @ self.projection
            sim = scene * (P.describe_scene(q) @ self.scenes.T)
            for j, (cells, s) in enumerate(zip(q, sim, strict=True)):
                if own:
                    s = s.clone()
                    s[b + j] = -10.0
                if scenes is not None and scenes < len(s):
                    s = torch.where(s >= s.topk(scenes).values[-1], s, s - 10.0)
                best, index = P.nearest_patches(cells, self.descriptors, s[self.owner], k)
                found_i.append(index)
                found_w.append(((best - best[:, :1]) / width).softmax(1))
        return torch.stack(found_i), torch.stack(found_w)

    def mix(self, index, weights):
        c = self.chroma[index]
        mean = (c * weights[..., None]).sum(2)
        spread = (c.norm(dim=3) * weights).sum(2)
        return mean, mean.norm(dim=2) / spread.clamp_min(0.5)


def guided(chroma, luma, radius, eps):
    """Guided filter of chroma (B, 2, H, W) by luma (B, 1, H, W)."""
    side = 2 * radius + 1

    def box(t):
        return F.avg_pool2d(F.pad(t, (radius,) * 4, mode="replicate"), side, 1)

    g = luma / 255
    mg, mc = box(g), box(chroma)
    a = (box(g * chroma) - mg * mc) / ((box(g * g) - mg * mg) + eps)
    b = mc - a * mg
    return box(a) * g + box(b)


def target_from_start(luma, start, s):
    with torch.no_grad():
        own = NET(luma.expand(-1, 3, -1, -1) / 255)
        then = NET(color.to_rgb(luma, start).clamp(0, 255) / 255)
    return [a + s * (b - a) for a, b in zip(own, then, strict=True)]


def target_from_bank(luma, sources, targets, bank_index, bank_weights, s, project=0):
    """The program's feature targets: differences of the neighbours' features; patches of the match grid."""
    with torch.no_grad():
        own = NET(luma.expand(-1, 3, -1, -1) / 255)
    out = []
    for tap, a, b in zip(own, sources, targets, strict=True):
        diff = P.to_patches((b - a).float(), (G, G)).half()
        ratio = max(1, G // tap.shape[-1])
        diff = diff.flatten(0, 1)
        if project:
            part = diff[torch.randperm(len(diff), generator=GEN)[:20000].to(DEV)].float()
            vec = torch.linalg.eigh((part.T @ part).double()).eigenvectors[:, -project:].float()
            diff = (diff.float() @ vec).half()
        if ratio > 1:
            cover = P.covering((G, G), ratio).to(DEV)
            photo, cell = bank_index // (G * G), bank_index % (G * G)
            places = photo * (G // ratio) ** 2 + cover[cell]
        else:
            places = bank_index
        moved = torch.stack(
            [F.embedding_bag(p, diff, mode="sum", per_sample_weights=w.half()).float()
             for p, w in zip(places, bank_weights, strict=True)]
        )
        if project:
            moved = moved @ vec.T
        if ratio > 1:
            planes = moved.transpose(1, 2).reshape(len(own[0]), -1, G, G)
            change = F.avg_pool2d(planes, ratio)
        else:
            change = torch.stack([P.from_patches(m, (G, G), tap.shape[1], tap.shape[2] // G) for m in moved])
        out.append(tap + s * change)
    return out


def invert(luma, targets, start, iterations=10, tv=30.0):
    return torch.cat(
        [
            invert_chroma(NET, luma[b : b + 64], [t[b : b + 64] for t in targets], start[b : b + 64],
                          tv_weight=tv, iterations=iterations).planes
            for b in range(0, len(luma), 64)
        ]
    )


@torch.no_grad()
def full_maps(images):
    parts = [[] for _ in TAPS]
    for batch in images.split(32):
        for p, m in zip(parts, NET(batch / 255), strict=True):
            p.append(m.half())
    return [torch.cat(p) for p in parts]


def at_cf(cells_of, items, aim=0.45):
    """Find the factor at which the mean CF ratio is the aim; return factor and tally."""
    low, high = 0.2, 6.0
    for _ in range(12):
        mid = (low + high) / 2
        tally = Tally()
        for item in items:
            tally.add(item["luma"], upsample(cells_of(item) * mid, SIZE), item["truth"])
        if float(torch.stack(tally.cf).mean()) < aim:
            low = mid
        else:
            high = mid
    return mid, tally


# ---------------------------------------------------------------- main


def over():
    return time.perf_counter() - T0 > ARGS.budget


def main():
    global NET, DEV, GEN, SIZE, ARGS
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--faces", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--limit", type=int, default=10**9)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--budget", type=float, default=225)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--stages", default="all")
    ARGS = parser.parse_args()
    SIZE = 128
    DEV = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    GEN = torch.Generator().manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    weights = resolve_weights("vgg16", "auto")
    NET = FeatureNetwork(weights.arrays, "vgg16", TAPS, precision="auto", device=DEV)

    def wanted(stage):
        return (ARGS.stages == "all" or stage in ARGS.stages.split(",")) and not over()

    paths = sorted(map(str, list_files(ARGS.data, {".jpg", ".jpeg", ".png", ".webp"})))[: ARGS.limit]
    rgb, big = load(paths, (128, 224))
    keep = [k for k in range(len(paths)) if not is_grey(rgb[k])]
    paths, rgb, big = [paths[k] for k in keep], rgb[keep], big[keep]
    images = to_planes(rgb)
    luma = color.luma(images)
    say(f"{len(paths)} photos in colour, {DEV}, threads {torch.get_num_threads()}")
    where = {p: k for k, p in enumerate(paths)}
    splits = []
    for seed in ARGS.seeds:
        opts = cq.Options(data=ARGS.data, inputs=ARGS.inputs, references=10**9)
        a, b = cq.split(paths, opts, seed)
        splits.append((torch.tensor([where[p] for p in a], device=DEV), torch.tensor([where[p] for p in b], device=DEV)))
    chroma = cell_chroma(images)
    maps = grid_maps(luma)
    big_luma = color.luma(to_planes(big))
    variants_of_maps = {
        "128": (maps, luma),
        "224": (grid_maps(big_luma), luma),
        "224up": (grid_maps(F.interpolate(luma, size=(224, 224), mode="bicubic", antialias=True)), luma),
    }
    both = lambda a, b: {**a, **{"b" + k: v for k, v in b.items()}}  # noqa: E731
    variants_of_maps["both"] = (both(maps, variants_of_maps["224"][0]), luma)
    flip_luma, flip_chroma = luma.flip(3), cell_chroma(images.flip(3))
    flips = {"128": grid_maps(flip_luma), "224": grid_maps(big_luma.flip(3))}
    flips["both"] = both(flips["128"], flips["224"])
    crops, crop_chroma, crop_luma = [], [], []
    for seed in (1, 2):
        gen = torch.Generator().manual_seed(seed)
        parts = []
        for k in range(len(images)):
            side = int(128 * (0.6 + 0.35 * float(torch.rand((), generator=gen))))
            t, l = (int(torch.randint(0, 128 - side + 1, (), generator=gen)) for _ in range(2))
            one = images[k : k + 1, :, t : t + side, l : l + side]
            one = one.flip(3) if float(torch.rand((), generator=gen)) < 0.5 else one
            parts.append(F.interpolate(one, size=(128, 128), mode="bicubic", antialias=True).clamp(0, 255))
        crop = torch.cat(parts)
        crops.append(grid_maps(color.luma(crop)))
        crop_chroma.append(cell_chroma(crop))
        crop_luma.append(color.luma(crop))
    if DEV.type == "cuda":
        torch.cuda.synchronize()
    say("features done")

    def take(m, index):
        return {k: v[index] for k, v in m.items()}

    # ---- neighbours
    items = []
    for inputs, refs in splits:
        bank = Bank(take(maps, refs), chroma[refs])
        index, w = bank.search(take(maps, inputs), 2048 if len(refs) > 50 else 512)
        items.append({"luma": luma[inputs], "truth": images[inputs], "inputs": inputs, "refs": refs, "bank": bank})
        it = items[-1]
        sims = w.log()  # softmax of best / .1: up to a constant
        it["nearest"] = {}
        for k, width in ((128, 0.1), (128, 0.07), (512, 0.1), (512, 0.07), (2048, 0.1), (2048, 0.07)):
            k = min(k, index.shape[2])
            ww = (sims[..., :k] * (0.1 / width)).softmax(2)
            it["nearest"][k, width] = bank.mix(index[..., :k], ww)
        it["index"], it["weights"] = index[..., :128].clone(), sims[..., :128].softmax(2)
        del index, w, sims
    say("neighbours done")
    for scenes, k in ((50, 512), (100, 512), (200, 512), (100, 1024)):
        tally = Tally()
        for it in items:
            tally.add(it["luma"], upsample(it["bank"].mix(*it["bank"].search(take(maps, it["inputs"]), k, scenes=scenes))[0], SIZE), it["truth"])
        say(f"nearest k {k} of the {scenes} likest scenes  {tally}")
    for key in items[0]["nearest"]:
        tally = Tally()
        for it in items:
            tally.add(it["luma"], upsample(it["nearest"][key][0], SIZE), it["truth"])
        say(f"nearest k {key[0]:5} width {key[1]:.2f}      {tally}")

    for name, layers in (("4 layers", RICH), ("6 layers", LAYERS), ("deep: 4_3 5_1", ("conv4_3", "conv5_1"))):
        tally = Tally()
        for it in items:
            bank = Bank(take(maps, it["refs"]), chroma[it["refs"]], layers)
            tally.add(it["luma"], upsample(bank.mix(*bank.search(take(maps, it["inputs"]), 512))[0], SIZE), it["truth"])
        say(f"nearest k 512, descriptors of {name:14}  {tally}")
    tally = Tally()
    for it in items:
        m = variants_of_maps["224"][0]
        bank = Bank(take(m, it["refs"]), chroma[it["refs"]])
        tally.add(it["luma"], upsample(bank.mix(*bank.search(take(m, it["inputs"]), 512))[0], SIZE), it["truth"])
    say(f"nearest k 512, descriptors at 224 px         {tally}")

    # ---- prior variants
    def gather(it, spec):
        """Training inputs and targets, and the inputs of the held-out photos."""
        which, ref, inp = spec.get("at", "128"), it["refs"], it["inputs"]
        m, l = variants_of_maps[which]
        layers = spec.get("layers", RICH)
        make = Inputs(take(m, ref), l[ref], layers, spec.get("dims", 512), spec.get("scene", 128),
                      spec.get("unit", False), spec.get("whiten", 0.0))
        x, y = [make(take(m, ref), l[ref])], [chroma[ref]]
        test = make(take(m, inp), l[inp])
        aug = spec.get("aug", "")
        if "f" in aug:
            x.append(make(take(flips["224" if which == "224up" else which], ref), flip_luma[ref]))
            y.append(flip_chroma[ref])
        if "c" in aug:
            for cm, cl, cc in zip(crops, crop_luma, crop_chroma, strict=True):
                x.append(make(take(cm, ref), cl[ref]))
                y.append(cc[ref])
        return make, torch.cat(x), torch.cat(y), test, len(ref)

    def fit(it, spec, seed=0):
        make, x, y, test, n = gather(it, spec)
        options = {k: v for k, v in spec.items() if k not in ("at", "layers", "dims", "scene", "unit", "whiten", "aug", "T")}
        options.setdefault("epochs", ARGS.epochs)
        model = train(x, y, seed=seed, **options)
        out = predict(model, test, members=None)
        return make, model, x[:n], out

    specs = {
        "base: 4 layers, PCA 512, scene 128, smooth L1": {},
        "3 taps, PCA 256": {"layers": TAPS, "dims": 256},
        "3 taps, PCA 512": {"layers": TAPS, "dims": 512},
        "6 layers": {"layers": LAYERS},
        "unit length per layer": {"unit": True},
        "whitened by 1/2": {"whiten": 0.5},
        "scene 32": {"scene": 32},
        "4 layers unit length, PCA 256": {"unit": True, "dims": 256},
        "3 taps unit length, PCA 256": {"unit": True, "dims": 256, "layers": TAPS},
        "flips": {"aug": "f"},
        "flips and 2 crops": {"aug": "fc"},
        "at 224": {"at": "224"},
        "at 224 from 128": {"at": "224up"},
        "at 128 and 224": {"at": "both", "layers": RICH + tuple("b" + n for n in RICH)},
        "l2": {"loss": "l2"},
        "photo l2, c 100": {"loss": "photol2", "c": 100.0},
        "photo l2, c 400": {"loss": "photol2", "c": 400.0},
        "photo smooth, c 100": {"loss": "photosmooth", "c": 100.0},
        "l1 norm": {"loss": "l1"},
        "dropout .7, 1024-512": {"dropout": 0.7, "hidden": (1024, 512)},
        "1024-512": {"hidden": (1024, 512)},
        "256-128": {"hidden": (256, 128)},
        "3 epochs": {"epochs": 3},
        "12 epochs": {"epochs": 12},
        "decay .3": {"decay": 0.3},
        "input noise .3": {"noise": 0.3},
        "flips+crops, photo l2 c 200, unit": {"aug": "fc", "loss": "photol2", "c": 200.0, "unit": True},
        "flips+crops, l2, 224 no crops, 1024-512 do .6": {"aug": "f", "at": "224", "loss": "l2", "hidden": (1024, 512),
                                                           "dropout": 0.6},
        "nll, flips": {"loss": "nll", "aug": "f"},
        "both, flips, photo l2 c 200": {"at": "both", "layers": RICH + tuple("b" + n for n in RICH), "aug": "f",
                                        "loss": "photol2", "c": 200.0},
    }
    results = {}
    if wanted("prior"):
        for name, spec in specs.items():
            if over() or time.perf_counter() - T0 > 0.5 * ARGS.budget:
                break
            alone, mixed, outs = Tally(), Tally(), []
            for it in items:
                out = fit(it, spec)[3]
                mean = out[..., :2].mean(0)
                outs.append(mean)
                near = it["nearest"][min(512, max(k for k, _ in it["nearest"])), 0.1][0]
                alone.add(it["luma"], upsample(mean, SIZE), it["truth"])
                mixed.add(it["luma"], upsample(0.65 * mean + 0.35 * near, SIZE), it["truth"])
            results[name] = (alone.mean, mixed.mean, spec, outs)
            say(f"{name:46} alone {alone}")
            say(f"{'':46} mixed {mixed}")
    best_name = max(results, key=lambda n: results[n][1]) if results else next(iter(specs))
    best = dict(specs[best_name])
    say("best mixed:", best_name)

    # ---- mean over the best variants: what diversity gives
    if len(results) > 4:
        order = sorted(results, key=lambda n: -results[n][1])[:4]
        tally = Tally()
        for k, it in enumerate(items):
            mean = torch.stack([results[n][3][k] for n in order]).mean(0)
            near = it["nearest"][512, 0.1][0]
            tally.add(it["luma"], upsample(0.65 * mean + 0.35 * near, SIZE), it["truth"])
        say(f"mean of the best four variants, mixed: {tally}")

    # ---- folds: out-of-fold predictions of the references, for confidence
    if wanted("confidence"):
        spec = {**best, "members": 5, "folds": True}
        tally = Tally()
        for it in items:
            make, model, x, out = fit(it, spec)
            it["out"], it["make"], it["model"] = out, make, model
            x = x[:250]
            oof = predict(model, x)
            photo = torch.arange(len(x), device=DEV)
            it["oof"] = oof[photo % 5, photo]
            it["calib"] = it["refs"][:250]
            it["mean"] = out[..., :2].mean(0)
            bank = it["bank"]
            index, w = bank.search(take(maps, it["calib"]), 512, own=True)
            near, r = [], []
            for b in range(0, len(index), 64):
                m, rr = bank.mix(index[b : b + 64], w[b : b + 64])
                near.append(m)
                r.append(rr)
            it["oof_near"], it["oof_r"] = torch.cat(near), torch.cat(r)
            it["near"], it["r"] = it["nearest"][512, 0.1]
            it["mix"] = 0.65 * it["mean"] + 0.35 * it["near"]
            it["oof_mix"] = 0.65 * it["oof"][..., :2] + 0.35 * it["oof_near"]
            tally.add(it["luma"], upsample(it["mix"], SIZE), it["truth"])
        say(f"5 members by folds, mixed .65                {tally}")
        t = Tally()
        for it in items:
            which = best.get("at", "128")
            x = it["make"](take(flips["224" if which == "224up" else which], it["inputs"]), flip_luma[it["inputs"]])
            out = predict(it["model"], x)[..., :2].mean(0).view(-1, G, G, 2).flip(2).flatten(1, 2)
            t.add(it["luma"], upsample(0.65 * (it["mean"] + out) / 2 + 0.35 * it["near"], SIZE), it["truth"])
        say(f"   with the mirrored input too                {t}")
        for share in (0.3, 0.5, 0.8, 1.0):
            t = Tally()
            for it in items:
                t.add(it["luma"], upsample(share * it["mean"] + (1 - share) * it["near"], SIZE), it["truth"])
            say(f"   share of the prior {share:.2f}                   {t}")
        for factor in (0.7, 0.85, 1.15, 1.3, 1.5):
            t = Tally()
            for it in items:
                t.add(it["luma"], upsample(factor * it["mix"], SIZE), it["truth"])
            say(f"   times {factor:.2f}                                {t}")

        def unitise(t):
            return t / t.norm(dim=-1, keepdim=True).clamp_min(1e-3)

        def stats(mix, near, r, mean):
            size = mix.norm(dim=2)
            agree = (unitise(mean) * unitise(near)).sum(2)  # -1..1
            together = mix.norm(dim=2) / (0.65 * mean.norm(dim=2) + 0.35 * near.norm(dim=2)).clamp_min(1e-3)
            w = size + 1e-3
            photo = {
                "size": size.mean(1).log(),
                "r": (r * w).sum(1) / w.sum(1),
                "agree": (agree * w).sum(1) / w.sum(1),
                "deviation": mix.std(1).norm(dim=1).log(),
                "chroma": mix.mean(1).norm(dim=1) / size.mean(1),
            }
            return size, agree, together, photo

        for it in items:
            it["stats"] = stats(it["mix"], it["near"], it["r"], it["mean"])
            it["oof_stats"] = stats(it["oof_mix"], it["oof_near"], it["oof_r"], it["oof"][..., :2])
            # Photo's factor, learned out of fold: predict the share of the prediction that is right.
            y = chroma[it["calib"]]
            m = it["oof_mix"]
            best_factor = ((m * y).sum((1, 2)) / m.square().sum((1, 2))).clamp(-0.5, 2.5)
            names = list(it["stats"][3])
            a = torch.stack([it["oof_stats"][3][n] for n in names], 1)
            b = torch.stack([it["stats"][3][n] for n in names], 1)
            mu, sd = a.mean(0), a.std(0)
            a = torch.cat([(a - mu) / sd, torch.ones(len(a), 1, device=DEV)], 1)
            b = torch.cat([(b - mu) / sd, torch.ones(len(b), 1, device=DEV)], 1)
            lam = 10 * torch.eye(a.shape[1], device=DEV)
            beta = torch.linalg.solve(a.T @ a + lam, a.T @ best_factor)
            it["photo_factor"], it["oof_photo_factor"] = b @ beta, a @ beta
            it["beta"] = beta
            # Cell's factor by size and r, a 2-d table by quantile (least squares in each), out of fold
            size, agree, together, _ = it["oof_stats"]
            proj = (m * y).sum(2)
            table, edges_s = torch.zeros(6, 6, device=DEV), torch.quantile(size.flatten()[:200000], torch.linspace(0, 1, 7, device=DEV)[1:-1])
            edges_r = torch.quantile(it["oof_r"].flatten()[:200000], torch.linspace(0, 1, 7, device=DEV)[1:-1])
            i, j = torch.bucketize(size, edges_s), torch.bucketize(it["oof_r"], edges_r)
            for p in range(6):
                for q in range(6):
                    on = (i == p) & (j == q)
                    table[p, q] = proj[on].sum() / (m.square().sum(2)[on].sum() + 100)
            it["cell_factor"] = table[torch.bucketize(it["stats"][0], edges_s), torch.bucketize(it["r"], edges_r)].clamp(0, 2)
            it["table"] = table
        say("weights of", names, "and 1:", [f"{float(v):+.2f}" for v in torch.stack([it["beta"] for it in items]).mean(0)])
        say("cell table (size x r):", [[round(float(v), 2) for v in row] for row in torch.stack([it["table"] for it in items]).mean(0)])
        for name in [*names, "photo_factor"]:
            score, bad = [], []
            for it in items:
                gain = gains_of(it["luma"], upsample(it["mix"], SIZE), it["truth"])[0]
                score.append(it["stats"][3][name] if name in it["stats"][3] else it["photo_factor"])
                bad.append(gain < 0)
            s, b = torch.cat(score), torch.cat(bad)
            good, ill = s[~b], s[b]
            auc = float((good[:, None] > ill[None]).float().mean())
            say(f"   {name:14} tells photos better than grey from worse: AUC {auc:.3f}")

        def clip(t, lo, hi):
            return t.clamp(lo, hi)

        rules = {
            "mix": lambda it: it["mix"],
            "mix * r": lambda it: it["mix"] * it["r"][..., None],
            "mix * r^.5": lambda it: it["mix"] * it["r"][..., None] ** 0.5,
            "mix * r^2": lambda it: it["mix"] * it["r"][..., None] ** 2,
            "mix * together": lambda it: it["mix"] * it["stats"][2][..., None],
            "mix * together^3": lambda it: it["mix"] * it["stats"][2][..., None] ** 3,
            "mix * size^.5": lambda it: it["mix"] * (it["stats"][0][..., None] / 10) ** 0.5,
            "mix * size": lambda it: it["mix"] * (it["stats"][0][..., None] / 10),
            "mix * cell factor": lambda it: it["mix"] * it["cell_factor"][..., None],
            "mix * photo factor": lambda it: it["mix"] * clip(it["photo_factor"], 0, 2)[:, None, None],
            "mix * photo factor^2": lambda it: it["mix"] * clip(it["photo_factor"], 0, 2)[:, None, None] ** 2,
            "mix * photo^2 * r": lambda it: it["mix"] * clip(it["photo_factor"], 0, 2)[:, None, None] ** 2 * it["r"][..., None],
            "mix * (photo - .2)+": lambda it: it["mix"] * clip(it["photo_factor"] - 0.2, 0, 2)[:, None, None],
            "mix * (photo - .4)+": lambda it: it["mix"] * clip(it["photo_factor"] - 0.4, 0, 2)[:, None, None],
            "mix * (photo - .4)+ * size^.5": lambda it: it["mix"] * clip(it["photo_factor"] - 0.4, 0, 2)[:, None, None]
            * (it["stats"][0][..., None] / 10) ** 0.5,
            "mix * photo r": lambda it: it["mix"] * it["stats"][3]["r"][:, None, None],
            "mix * photo r^2": lambda it: it["mix"] * it["stats"][3]["r"][:, None, None] ** 2,
            "mix * (photo r - .3)+": lambda it: it["mix"] * clip(it["stats"][3]["r"] - 0.3, 0, 1)[:, None, None],
        }
        if "nll" in str(best.get("loss")):
            rules["mix * snr^.5"] = lambda it: it["mix"] * (
                (it["mix"] / 20).square().sum(2) / torch.exp(it["out"][..., 2].mean(0))
            )[..., None] ** 0.25
        for name, rule in rules.items():
            if over():
                break
            for aim in (0.36, 0.45):
                f, t = at_cf(rule, items, aim)
                say(f"   at CF {aim:.2f}: {name:32} x {f:.2f}  {t}")
        say("stretch within the photo: chroma minus the photo's mean times 1.3 / 1.6 / 2")
        for f in (1.3, 1.6, 2.0):
            t = Tally()
            for it in items:
                mean = it["mix"].mean(1, keepdim=True)
                t.add(it["luma"], upsample(mean + f * (it["mix"] - mean), SIZE), it["truth"])
            say(f"   times {f:.1f}: {t}")

    # ---- inversion
    starts = {"nearest 128": lambda it: it["nearest"][128, 0.1][0]}
    if "mix" in items[0]:
        starts["mix"] = lambda it: it["mix"]
        for p in (1, 2):
            rule = lambda it, p=p: it["mix"] * it["photo_factor"].clamp(0, 2)[:, None, None] ** p  # noqa: E731
            factor = at_cf(rule, items, 0.42)[0]
            starts[f"photo factor^{p} to CF .42"] = lambda it, f=factor, rule=rule: f * rule(it)
        starts["mix * photo factor"] = lambda it: it["mix"] * it["photo_factor"].clamp(0, 2)[:, None, None]
    if wanted("inversion"):
        for it in items:
            it["sources"] = full_maps(luma[it["refs"]].expand(-1, 3, -1, -1))
            it["targets"] = full_maps(images[it["refs"]])
        for name, start_of in starts.items():
            ways = {
                "none": lambda it, s: s,
                "bank differences x2, 10": lambda it, s: invert(it["luma"], target_from_bank(it["luma"], it["sources"], it["targets"], it["index"], it["weights"], 2.0), s),
                "bank differences projected 64, x2": lambda it, s: invert(it["luma"], target_from_bank(it["luma"], it["sources"], it["targets"], it["index"], it["weights"], 2.0, 64), s),
                "bank differences x1": lambda it, s: invert(it["luma"], target_from_bank(it["luma"], it["sources"], it["targets"], it["index"], it["weights"], 1.0), s),
                "start's features x1.5": lambda it, s: invert(it["luma"], target_from_start(it["luma"], s, 1.5), s),
                "start's features x2": lambda it, s: invert(it["luma"], target_from_start(it["luma"], s, 2.0), s),
                "start's features x3": lambda it, s: invert(it["luma"], target_from_start(it["luma"], s, 3.0), s),
                "start's features x2, tv 10": lambda it, s: invert(it["luma"], target_from_start(it["luma"], s, 2.0), s, 10, 10.0),
                "guided 8, 1e-3": lambda it, s: guided(s, it["luma"], 8, 1e-3),
                "guided 8, 1e-2": lambda it, s: guided(s, it["luma"], 8, 1e-2),
                "guided 4, 1e-3": lambda it, s: guided(s, it["luma"], 4, 1e-3),
            }
            for way, do in ways.items():
                if over():
                    break
                if "factor" in name and way not in ("none", "start's features x1.5", "start's features x2", "bank differences x2, 10", "guided 8, 1e-3"):
                    continue
                t = Tally()
                for it in items:
                    planes = do(it, upsample(start_of(it), SIZE)).float()
                    it.setdefault("inverted", {})[name, way] = planes
                    t.add(it["luma"], planes, it["truth"])
                say(f"{name:20} inversion: {way:34} {t}")
        for it in items:
            it.pop("sources"), it.pop("targets")
        for key in list(items[0].get("inverted", {})):
            if key[1] not in ("none",) and key[0] == "mix":
                for f in (0.85, 1.2):
                    t = Tally()
                    for it in items:
                        t.add(it["luma"], f * it["inverted"][key], it["truth"])
                    say(f"   mix, {key[1]}, result times {f}: {t}")

    # ---- how many references
    if wanted("count"):
        for count in (25, 50, 100, 150, 300, 450):
            if over():
                break
            a, b, m, m2 = Tally(), Tally(), Tally(), Tally()
            for it in items:
                refs = it["refs"][:count]
                part = {**it, "refs": refs}
                out = fit(part, {**best, "members": 3})[3][..., :2].mean(0)
                bank = Bank(take(maps, refs), chroma[refs])
                index, w = bank.search(take(maps, it["inputs"]), min(512, count * 32))
                near = bank.mix(index, w)[0]
                index, w = bank.search(take(maps, it["inputs"]), 128)
                near128 = bank.mix(index, w)[0]
                a.add(it["luma"], upsample(near128, SIZE), it["truth"])
                b.add(it["luma"], upsample(out, SIZE), it["truth"])
                m.add(it["luma"], upsample(0.65 * out + 0.35 * near, SIZE), it["truth"])
                m2.add(it["luma"], upsample(0.35 * out + 0.65 * near, SIZE), it["truth"])
            for name, t in (("nearest 128", a), ("prior", b), ("mixed .65", m), ("mixed .35", m2)):
                say(f"{count:4} references, {name:12} {t}")

    # ---- sizes
    if wanted("sizes") and "mix" in items[0]:
        it = items[0]
        pick = it["inputs"][:24]
        chosen = [paths[k] for k in pick.tolist()]
        sized = load(chosen, (128, 224, 448))
        shown = {}
        for rgb_s in sized:
            l = color.luma(to_planes(rgb_s))
            start = upsample(it["mix"][:24], l.shape[-1])
            for way in ("start", "x1.5", "x2"):
                planes = start if way == "start" else torch.cat([invert(l[b : b + 8], target_from_start(l[b : b + 8], start[b : b + 8], float(way[1:])), start[b : b + 8]) for b in range(0, 24, 8)])
                small = F.interpolate(planes, size=(128, 128), mode="bicubic", antialias=True)
                shown.setdefault(way, []).append(small)
        base = color.luma(to_planes(sized[0]))
        for way, planes in shown.items():
            for name, a, b in (("128 224", 0, 1), ("128 448", 0, 2), ("224 448", 1, 2)):
                d = (planes[a] - planes[b]).norm(dim=1).mean()
                try:
                    from skimage.color import deltaE_ciede2000, rgb2lab

                    pics = [(color.to_rgb(base, planes[k]).clamp(0, 255) / 255).permute(0, 2, 3, 1).cpu().numpy() for k in (a, b)]
                    e = f"{float(deltaE_ciede2000(rgb2lab(pics[0]), rgb2lab(pics[1])).mean()):.2f}"
                except ImportError:
                    e = "-"
                say(f"sizes {name}, fixed match size, {way:6}: chroma differs by {float(d):.2f} of 255, CIEDE2000 {e}")
    # ---- faces
    if ARGS.faces and Path(ARGS.faces).exists() and wanted("faces"):
        fpaths = sorted(map(str, list_files(ARGS.faces, {".jpg", ".jpeg", ".png"})))
        (frgb,) = load(fpaths, (96,))
        good = [k for k in range(len(fpaths)) if not is_grey(frgb[k])]
        fpaths, frgb = [fpaths[k] for k in good], frgb[good]
        fimg = to_planes(frgb)
        fl, fw = color.luma(fimg), {p: k for k, p in enumerate(fpaths)}
        fm = grid_maps(F.interpolate(fl, size=(128, 128), mode="bicubic", antialias=True))
        fc = F.adaptive_avg_pool2d(F.interpolate(color.chroma(fimg), size=(128, 128), mode="bicubic", antialias=True), G).flatten(2).transpose(1, 2)
        fl128 = F.interpolate(fl, size=(128, 128), mode="bicubic", antialias=True)
        tallies = {}
        for seed in range(6):
            if over():
                break
            opts = cq.Options(data=ARGS.faces)
            a, b = cq.split(fpaths, opts, seed)
            a, b = torch.tensor([fw[p] for p in a], device=DEV), torch.tensor([fw[p] for p in b], device=DEV)
            make = Inputs(take(fm, b), fl128[b], best.get("layers", RICH), best.get("dims", 512), best.get("scene", 128), best.get("unit", False), best.get("whiten", 0.0))
            options = {k: v for k, v in best.items() if k not in ("at", "layers", "dims", "scene", "unit", "whiten", "aug", "T")}
            model = train(make(take(fm, b), fl128[b]), fc[b], **options)
            out = predict(model, make(take(fm, a), fl128[a]))[..., :2].mean(0)
            bank = Bank(take(fm, b), fc[b])
            index, w = bank.search(take(fm, a), 128)
            near = bank.mix(index, w)[0]
            mean = color.chroma(fimg[b]).mean(0, keepdim=True).expand(len(a), -1, -1, -1)
            tallies.setdefault("mean chroma", Tally()).add(fl[a], mean, fimg[a])
            for name, cells in (("nearest", near), ("prior", out), ("mixed .65", 0.65 * out + 0.35 * near), ("mixed .35", 0.35 * out + 0.65 * near)):
                start = upsample(cells, 96)
                tallies.setdefault(name, Tally()).add(fl[a], start, fimg[a])
                inv = invert(fl[a], target_from_start(fl[a], start, 2.0), start)
                tallies.setdefault(name + ", inverted x2", Tally()).add(fl[a], inv, fimg[a])
        for name, t in tallies.items():
            say(f"faces, {len(t.gain)} splits: {name:24} {t}")

    say("done")


main()
