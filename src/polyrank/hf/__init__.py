"""The only place that touches transformers and PEFT: load, install strictly, export."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
"""PEFT imports it where it is installed, and it then tells everybody of a kernel for inference that it looked for."""
