//! Attack-like behaviours and their benign twins, performed for real and harmlessly.
