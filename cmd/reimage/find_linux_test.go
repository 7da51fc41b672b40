package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/reimage"
	"hatchery/netboot/node"
	"hatchery/netboot/reimager"
)

// TestFind: what comes of what is in a node's slots, also of one that was started over its
// link since its card has nothing to start from.
func TestFind(t *testing.T) {
	const bootStart, size = 4 * mib, 8 * mib
	order := func(of int) *reimage.Order {
		return &reimage.Order{
			Version: reimage.OrderVersion, Operation: "op", Slot: of, Cluster: "c", Controller: "172.19.181.254", Address: "172.19.181.7/24",
			Key: "key", Certificate: "certificate", CA: "ca",
		}
	}
	write := func(at int64, content string) func(*os.File) error {
		return func(f *os.File) error { _, err := f.WriteAt([]byte(content), at); return err }
	}
	ordered := func(of int) func(*os.File) error {
		return func(f *os.File) error { return reimage.WriteOrder(f, order(of)) }
	}
	table := func(f *os.File) error {
		b := make([]byte, 512)
		b[446+4] = 0x0c
		binary.LittleEndian.PutUint32(b[446+8:], bootStart/512)
		binary.LittleEndian.PutUint32(b[446+12:], 2*mib/512)
		b[510], b[511] = 0x55, 0xaa
		_, err := f.WriteAt(b, 0)
		return err
	}
	boot := write(bootStart+510, "\x55\xaa")
	mark := write(reimage.OrderPlace+reimage.OrderSize, "hatchery writes this card 1\nop\n")
	damage := write(reimage.OrderPlace+100, "?")
	damageBoth := func(f *os.File) error {
		if err := damage(f); err != nil {
			return err
		}
		return write(reimage.OrderPlace+reimage.OrderSize/2+100, "?")(f)
	}
	type card []func(*os.File) error
	for _, test := range []struct {
		summary string
		cards   map[string]card
		found   bool
		code    int // what the program ends with
		says    string
	}{
		{"a card with its order", map[string]card{"mmcblk0": {table, boot, ordered(slot)}}, true, 0, ""},
		{"the same, with no boot partition", map[string]card{"mmcblk0": {table, mark, ordered(slot)}}, true, 0, ""},
		{"an order in one whole copy", map[string]card{"mmcblk0": {table, ordered(slot), damage}}, true, 0, ""},
		{"a card beside another", map[string]card{"mmcblk0": {table, ordered(slot)}, "sda": {table, boot}}, true, 0, ""},
		{"no order", map[string]card{"mmcblk0": {table, boot}}, false, node.ReimageUntouched, "no order"},
		{"no order, and a mark that a late cut left behind", map[string]card{"mmcblk0": {table, boot, mark}}, false, node.ReimageUntouched, "no order"},
		{"no order, and no boot partition", map[string]card{"mmcblk0": {table, mark}}, false, 1, "nothing to start from, and no order"},
		{"a damaged order, and no boot partition", map[string]card{"mmcblk0": {table, mark, ordered(slot), damageBoth}}, false, 1, "damaged"},
		{"an empty card", map[string]card{"mmcblk0": nil}, false, 1, "nothing to start from, and no order"},
		{"a card that is another slot's", map[string]card{"mmcblk0": {table, boot, ordered(3)}}, false, node.ReimageUntouched, "for slot 3"},
		{"one that is another slot's, and begun", map[string]card{"mmcblk0": {table, mark, ordered(3)}}, false, 1, "half-written"},
		{"no card", nil, false, 1, "no card"},
		{"nothing that is a card", map[string]card{"loop0": {table, ordered(slot)}, "mmcblk0boot0": {ordered(slot)}}, false, 1, "no card"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			class, dev := t.TempDir(), t.TempDir()
			for name, steps := range test.cards {
				must(t, os.Mkdir(filepath.Join(class, name), 0o755))
				f, err := os.Create(filepath.Join(dev, name))
				must(t, err)
				must(t, f.Truncate(size))
				for _, step := range steps {
					must(t, step(f))
				}
				must(t, f.Close())
			}
			found, err := find(class, dev, slot, time.Nanosecond)
			if test.found {
				must(t, err)
				defer found.card.Close()
				if found.order.Slot != slot || filepath.Base(found.card.Name()) != "mmcblk0" {
					t.Errorf("%s on %s", found.order, found.card.Name())
				}
				return
			}
			if err == nil || ended(err) != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("it ends with %d: %v", ended(err), err)
			}
			for name := range test.cards {
				d, err := open(filepath.Join(dev, name))
				must(t, err)
				defer d.Close()
				if _, err := reimager.Bootable(d); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
