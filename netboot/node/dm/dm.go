// Package dm makes device-mapper devices and the compressed memory that stores
// what is written to one: an ephemeral root is a snapshot of a disk that is
// never written.
//
// Source: the kernel's include/uapi/linux/dm-ioctl.h,
// Documentation/admin-guide/device-mapper/snapshot.rst and
// Documentation/admin-guide/blockdev/zram.rst.
package dm

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// The numbers of struct dm_ioctl, version 4. It has no pointers, and is the
// same size on every system.
const (
	ioctlSize  = 312 // with its padding and 7 bytes of data
	specSize   = 40
	offVersion = 0
	offSize    = 12
	offStart   = 16
	offTargets = 20
	offFlags   = 28
	offDev     = 40
	offName    = 48
	offUUID    = 176
	maxName    = 127
	maxUUID    = 128

	// ReadOnly has a device refuse writes.
	ReadOnly = 1 << 0
	// FlagTruncated says that the answer did not fit.
	FlagTruncated = 1 << 8
)

// A Target is one line of a device's table, in sectors of 512 bytes.
type Target struct {
	Start, Length uint64
	Kind, Params  string
}

// Message builds what an ioctl gets: a header and, for a table, its lines, in
// a buffer of at least so many bytes.
func Message(name, uuid string, flags uint32, table []Target, least int) ([]byte, error) {
	if name == "" || len(name) > maxName || len(uuid) > maxUUID {
		return nil, fmt.Errorf("%q is no name of a mapped device", name)
	}
	b := make([]byte, ioctlSize)
	binary.NativeEndian.PutUint32(b[offVersion:], 4)
	binary.NativeEndian.PutUint32(b[offStart:], ioctlSize)
	binary.NativeEndian.PutUint32(b[offTargets:], uint32(len(table)))
	binary.NativeEndian.PutUint32(b[offFlags:], flags)
	copy(b[offName:], name)
	copy(b[offUUID:], uuid)
	for _, t := range table {
		if len(t.Kind) > 15 {
			return nil, fmt.Errorf("%q is no kind of a target", t.Kind)
		}
		size := (specSize + len(t.Params) + 1 + 7) &^ 7
		spec := make([]byte, size)
		binary.NativeEndian.PutUint64(spec[0:], t.Start)
		binary.NativeEndian.PutUint64(spec[8:], t.Length)
		binary.NativeEndian.PutUint32(spec[20:], uint32(size)) // where the next begins
		copy(spec[24:], t.Kind)
		copy(spec[specSize:], t.Params)
		b = append(b, spec...)
	}
	if len(b) < least {
		b = append(b, make([]byte, least-len(b))...)
	}
	binary.NativeEndian.PutUint32(b[offSize:], uint32(len(b)))
	return b, nil
}

// ParseStatus reads the answer to DM_TABLE_STATUS.
func ParseStatus(b []byte) ([]Target, error) {
	if len(b) < ioctlSize {
		return nil, fmt.Errorf("an answer of %d bytes", len(b))
	}
	if binary.NativeEndian.Uint32(b[offFlags:])&FlagTruncated != 0 {
		return nil, fmt.Errorf("an answer that did not fit")
	}
	at, n := uint64(binary.NativeEndian.Uint32(b[offStart:])), binary.NativeEndian.Uint32(b[offTargets:])
	data := at
	var all []Target
	for range n {
		if at+specSize > uint64(len(b)) {
			return nil, fmt.Errorf("a target past the answer's end")
		}
		spec := b[at:]
		params, _, _ := strings.Cut(string(spec[specSize:]), "\x00")
		kind, _, _ := strings.Cut(string(spec[24:40]), "\x00")
		all = append(all, Target{
			Start: binary.NativeEndian.Uint64(spec), Length: binary.NativeEndian.Uint64(spec[8:]), Kind: kind, Params: params,
		})
		// From the first one's start, here; in a table it is from the last one's.
		next := data + uint64(binary.NativeEndian.Uint32(spec[20:]))
		if next <= at && len(all) < int(n) {
			return nil, fmt.Errorf("targets that do not go on")
		}
		at = next
	}
	return all, nil
}

// Chunk is what a snapshot copies in one piece, in sectors: a block of ext4 and
// a page of zram, so that a block that is written whole is not read first.
const Chunk = 8

// Snapshot is the table of a snapshot: reads go to the origin, what is written
// goes to the store. The store's index is in memory only (N): after a boot
// nothing of it is wanted. With zeroing, a discarded chunk is zeroed in the
// store, which costs zram nothing (Linux 5.3).
func Snapshot(origin, store string, size int64, zeroing bool) []Target {
	params := fmt.Sprintf("%s %s N %d", origin, store, Chunk)
	if zeroing {
		params += " 1 discard_zeroes_cow"
	}
	return []Target{{Length: uint64(size / 512), Kind: "snapshot", Params: params}}
}

// Usage reads a snapshot's status, "used/total metadata" in sectors. ok is
// false for one that failed: "Invalid", "Overflow".
func Usage(params string) (used, total int64, ok bool) {
	word, _, _ := strings.Cut(params, " ")
	a, b, found := strings.Cut(word, "/")
	u, err1 := strconv.ParseInt(a, 10, 64)
	t, err2 := strconv.ParseInt(b, 10, 64)
	if !found || err1 != nil || err2 != nil || u < 0 || t < u || t > 1<<50 {
		return 0, 0, false
	}
	return u * 512, t * 512, true
}

// Expansion is how much more a store promises to hold than it may take of the
// memory: what a system writes (packages, logs, databases) shrinks to a half or
// third by LZO. Data that do not shrink meet the memory's limit first.
const Expansion = 2

// Store sizes the memory that takes what is written to a root of a size, of
// which memory is to be used: disk is what the store promises to hold (each
// chunk of the root once at most), limit where it refuses. That is a quarter
// more than is to be used: what is written again in place, the journal above
// all, needs room too, and no file system can be told to save it.
func Store(root, memory int64) (disk, limit int64) {
	const page = 4096
	limit = memory + memory/4
	disk = min(root+1<<20, limit*Expansion)
	return disk / page * page, limit / page * page
}

// Left is how much may still be written: used and total are the snapshot's, mm
// is the text of zram's mm_stat, memory what is to be used. Nobody knows how
// well the next data shrink, so they are taken as they come; when they have
// shrunk, there is more left.
func Left(used, total int64, mm string, memory int64) int64 {
	left := total - used
	// What was written, what it shrank to, and what that takes.
	if words := strings.Fields(mm); len(words) > 2 {
		if taken, err := strconv.ParseInt(words[2], 10, 64); err == nil && taken >= 0 {
			left = min(left, memory-taken)
		}
	}
	return max(0, left)
}

// Reserve is how many bytes of a file system's free space must not be given
// out, so that it is full (ENOSPC, which programs know) before its store is
// (which ends the snapshot): free is the file system's, left what the store
// takes, pending what of it is spoken for but not written yet.
func Reserve(free, left, pending int64) int64 {
	return max(0, free-max(0, left-left/8-pending))
}
