// Package store keeps, on the controller's card, what slots boot from over
// the link: immutable bases and sealed layers by their digests, and for each
// slot which of them it boots, and a writable top layer of its own.
//
// A [Root] is a base and the sealed layers over it, as `hatchery build` makes
// them. A slot has generations of roots: the current one, the next one, which
// was assigned and takes the current one's place when the slot boots, and the
// previous one, which stays with its top until the new one was seen Ready.
// So an upgrade never happens under a running node, and Undo finds everything
// as it was.
//
//	Assign  next = the root; at the next Boot: previous = current, current = next
//	Reset   previous = current, current = the same root with a fresh top
//	Ready   the current one works: previous is dropped
//	Undo    a next that was not booted is dropped; else current and previous change places
//
// Where the current generation gives way and was never Ready, it is dropped
// and the previous one stays: it is the last that is known to work.
//
// # What is where
//
//	bases/<sha256>.img       a raw image, sparse, 0400
//	layers/<digest>.layer    a sealed layer (internal/layer), 0400
//	slots/p2/state.json      the slot's generations and settings
//	slots/p2/7.top           the writable layer of one generation
//	slots/p2/lock, open      locks: of state.json, and held while the disk is open
//	incoming/<digest>.part   an object that is arriving; .progress: how much of it is durable
//	objects.lock             shared by who adds objects, alone for who collects them
//	incoming.lock            one push at a time
//
// and in a folder that goes with the power, [Options].Run:
//
//	p2.running               the slot was booted, and its node may be alive
//	p2-7.journal             the journal of a top (netboot/disk)
//
// # What survives
//
// A slot's state changes by one rename of state.json, after everything that it
// refers to is durable, and before anything that it no longer refers to is
// removed. So a kill or a loss of power at any moment leaves the state from
// before or the one after. What neither refers to is removed by the next Open.
//
// Several processes may work with one store: `hatchery serve` has the disks
// open, `hatchery netboot receive` adds objects and assigns roots beside it.
package store
