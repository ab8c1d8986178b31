"""Loaded by every Python of a disturbed run, which finds this directory on its path."""

import os

if "ASSAY_CAMPAIGN" in os.environ:
    from tests.campaign.inject import install

    install(os.environ["ASSAY_CAMPAIGN"])
