"""Named models over named data sets, in RecBole's own split and evaluation."""
