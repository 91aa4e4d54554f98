"""Training: plan, tokenizer, pretraining and fine-tuning over one loop."""
