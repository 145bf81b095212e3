"""In-context linear regression (Raventos et al. 2023; Carroll et al. 2025)."""
