package disk

import "sync/atomic"

type counters struct {
	reads, readBytes       atomic.Int64
	writes, writeBytes     atomic.Int64
	discards, discardBytes atomic.Int64
	flushes, syncs         atomic.Int64
	refused                atomic.Int64
}

// Stats are what a disk takes and what was done with it since it was opened.
type Stats struct {
	Size     int64 // of the device, bytes
	ReadOnly bool

	// What is stored for the slot, in bytes; all 0 if the disk is read-only.
	Quota    int64 // 0: none
	Stored   int64 // data: what the quota is for
	Replaced int64 // besides, what was written over and is kept until the next flush
	Map      int64 // besides, what says where it is
	Unsaved  int64 // bytes of the device that changed since the last flush

	Reads, ReadBytes       int64
	Writes, WriteBytes     int64 // by the node
	Discards, DiscardBytes int64
	Flushes                int64 // asked for
	Syncs                  int64 // made for these
	Refused                int64 // writes for which there was no room

	// CardBytes is what was written to the layer's file: data, map, states. What
	// is written over before it is flushed may reach the card once only.
	CardBytes int64

	// FlushError is why the last flush failed; nil if it did not.
	FlushError error
}

// Stats gives the present figures.
func (d *Disk) Stats() Stats {
	s := Stats{
		Size: d.Size(), ReadOnly: d.layer == nil,
		Reads: d.count.reads.Load(), ReadBytes: d.count.readBytes.Load(),
	}
	if d.layer == nil {
		return s
	}
	u := d.layer.Usage()
	s.Quota, s.Stored, s.Replaced, s.Map, s.Unsaved = d.options.Quota, u.Data, u.Replaced, u.Map, u.Unsaved
	s.Writes, s.WriteBytes = d.count.writes.Load(), d.count.writeBytes.Load()
	s.Discards, s.DiscardBytes = d.count.discards.Load(), d.count.discardBytes.Load()
	s.Flushes, s.Syncs, s.Refused = d.count.flushes.Load(), d.count.syncs.Load(), d.count.refused.Load()
	s.CardBytes = u.Written
	if err := d.failed.Load(); err != nil {
		s.FlushError = *err
	}
	return s
}
