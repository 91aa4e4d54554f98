"""Raw text to a clean dataset: rules of quality, exact and near duplicates, shuffled shards."""
