"""Parts of the robustness campaign `benchmarks/trust.py`."""
