package preserve

// Unpack is unpack: without the card's syncing, for fuzzing.
var Unpack = unpack
