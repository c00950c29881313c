"""Parts of scripts/train-demo-pair; needs torch, tokenizers and safetensors."""
