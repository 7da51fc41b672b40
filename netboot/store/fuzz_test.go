package store_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/netboot/store"
)

// FuzzState reads states that nobody wrote. What is taken can be written, and
// reads as the same.
func FuzzState(f *testing.F) {
	root := store.Root{Base: digest.FromString("b"), Layers: []digest.Digest{digest.FromString("l")}, Slot: 3, When: time.Unix(1778630400, 0).UTC(), By: "me"}
	good, err := store.EncodeState(&store.State{
		Slot: 3, Settings: store.Settings{Mode: store.Netboot, Size: 8 << 30, Quota: 1 << 30}, Serial: 9,
		Current: &store.Generation{Root: root, Top: 9, Ready: true}, Next: &root, Previous: &store.Generation{Root: root, Top: 4},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"slot":3,"mode":"off"}`))
	f.Add([]byte(`{"format":1,"slot":3,"mode":"off","current":{"root":{}}}`))
	f.Add([]byte(`{"format":9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := store.DecodeState(data, 3)
		if err != nil {
			return
		}
		again, err := store.EncodeState(st)
		if err != nil {
			t.Fatalf("it was taken, but cannot be written: %v", err)
		}
		st2, err := store.DecodeState(again, 3)
		if err != nil {
			t.Fatalf("it was written, but cannot be read: %v", err)
		}
		if third, err := store.EncodeState(st2); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%s became %s, %v", again, third, err)
		}
	})
}

// FuzzMark reads marks that nobody wrote.
func FuzzMark(f *testing.F) {
	f.Add(make([]byte, store.MarkSize))
	f.Add(append([]byte("hatchprt\x01"), make([]byte, store.MarkSize-9)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		again, ok := store.Remark(data)
		if !ok {
			return
		}
		if third, ok := store.Remark(again); !ok || !bytes.Equal(again, third) {
			t.Fatal("a mark does not stay the same")
		}
	})
}
