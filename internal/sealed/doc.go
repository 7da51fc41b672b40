// Package sealed is a format for data that only its maker may read, kept by
// others: the controller's backups, which lie on the nodes. A sealed stream is
// encrypted to the maker's public key with HPKE (RFC 9180) and signed with the
// same key, so that whoever keeps it can neither read it, nor change it, nor
// put another in its place.
//
// A stream is
//
//	magic       "hatchery-sealed\x00", 16 bytes
//	version     1, one byte
//	length      of the label, 4 bytes, big-endian
//	label       public: what this is, as its maker wrote it
//	enc         HPKE's encapsulated key: a point of P-256, 65 bytes
//	signature   r and s of ECDSA P-256, 32 bytes each, over the SHA-256 of "hatchery sealed stream v1\x00" and all above
//	chunks      64 KiB of plaintext each, the last one less or as much, each with a tag of 16 bytes
//
// The suite is DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM in base
// mode, its info everything above enc. HPKE counts the chunks, so their order is
// authenticated; the associated data is 1 for the last chunk and 0 for the
// others, so the end is, too.
//
// The signature stands at the beginning and does not cover the chunks: it
// binds the label to the encapsulated key, and the key that comes of that is
// known to nobody but the maker. (HPKE's own authenticated mode would do the
// same; the standard library has base mode only.)
package sealed
