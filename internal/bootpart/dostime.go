package bootpart

import (
	"encoding/binary"
	"time"
)

var (
	dosFirst = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	dosLast  = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
)

// toDOS gives a time as FAT stores it, within what it can say.
func toDOS(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Before(dosFirst) {
		t = dosFirst
	}
	if t.After(dosLast) {
		t = dosLast
	}
	date = uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	clock = uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
	return date, clock
}

func fromDOS(date, clock uint16) time.Time {
	return time.Date(int(date>>9)+1980, time.Month(date>>5&15), int(date&31),
		int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}

// stampSlot gives a slot the time t: modified, accessed and, for a new one,
// created.
func stampSlot(slot []byte, t time.Time, created bool) {
	date, clock := toDOS(t)
	if created {
		slot[13] = 0
		binary.LittleEndian.PutUint16(slot[14:], clock)
		binary.LittleEndian.PutUint16(slot[16:], date)
	}
	binary.LittleEndian.PutUint16(slot[18:], date)
	binary.LittleEndian.PutUint16(slot[22:], clock)
	binary.LittleEndian.PutUint16(slot[24:], date)
}
