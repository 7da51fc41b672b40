package preserve

// Unpack is unpack: without the card's syncing, for fuzzing.
var Unpack = unpack

// Guarded says why a path cannot be kept as a whole, "" where it can.
func (k *Keeper) Guarded(path string) string { return k.guarded(path) }
