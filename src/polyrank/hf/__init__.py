"""The only place that touches transformers and PEFT: load, install strictly, export."""
