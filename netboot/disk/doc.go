// Package disk is what a slot boots from, as its node sees it: a block device
// that is a chain of sealed layers with a layer of the slot's own on top, or
// without one, read-only.
//
// What a node was told is written survives the controller's process, flushed or
// not: the node's page cache relies on it, and reads it again when the process
// is back. That is the layer's journal (internal/layer), a file in memory beside
// the page cache. It does not survive the power: then the content is that of
// the last flush. A node flushes when its own file system wants to; beyond that,
// a disk flushes by itself every [Options].FlushEvery, so that little is lost.
//
// What a slot may store is bounded twice, by its quota, and by what must remain
// free on the controller's file system. A write that would store more fails with
// [ErrQuota] or [ErrSpace], both of which match syscall.ENOSPC, and leaves
// everything as it was; what is stored already can be written anew, and discarded.
package disk
