"""A finished run's pictures as files, WebDataset archives or a Hugging Face dataset."""
