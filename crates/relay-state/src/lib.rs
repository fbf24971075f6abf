//! Pure folds over relay events: the pod cache, the order of checks, the replay phases, cursor stores.
