// Package transfer carries bases and layers from a workstation to a
// controller's store: [Send] is what `hatchery push` does, [Receive] what
// `hatchery netboot receive` does at the other end of an ssh connection, on
// its stdin and stdout.
//
// Only what the store lacks is sent, and of that only what is no hole; an
// object that arrived in part goes on where it is durable. Nothing that the
// sender says is taken for a path, every length has a bound, and what arrives
// is verified by its digest before it counts.
//
// # Protocol, version 1
//
// Each side begins with a line. The sender's names the oldest and the newest
// version that it speaks, the receiver's the one that they will speak, or "none"
// and its own. What precedes the receiver's line (a shell's greeting) is skipped,
// up to 16 KiB of it:
//
//	hatchery push 1-1
//	hatchery receive 1
//
// Then both send frames. Numbers are little-endian:
//
//	 0  1  type
//	 1  1  flags: 1 = the payload is a zstd frame
//	 2  2  number of the object, as offered (data, end)
//	 4  4  length of the payload, at most 1 MiB + 4 KiB
//	 8  8  where in the object the data belongs (data)
//	16  4  length of the data before compression, at most 1 MiB (data)
//	20  4  CRC-32C of bytes 0–19 and the payload
//	24     payload
//
// in this order:
//
//	sender    1 offer    JSON: objects with digest, length and stored bytes, parents first; what slots shall boot
//	receiver  2 want     JSON: numbers of the objects that it lacks, and from which byte on
//	sender    3 data     for each of them, front to back; what is not sent reads as zeros
//	          4 end      the object was sent in all
//	receiver  5 result   JSON: what was stored, which slots will boot what
//
// At any time, either sends 6 (alive: every 15 s, so that a dead connection is
// told from a slow one) or 7 (failure, JSON: why it gives up), and the receiver
// 8, 9 and 10 (JSON and numbers: a piece of work begins, goes on, ends), which
// the sender shows. Frames of other types are errors.
package transfer
