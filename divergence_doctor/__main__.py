"""``python -m divergence_doctor``: the same as ``doctor``."""

from divergence_doctor.cli import main

if __name__ == "__main__":
    main()
