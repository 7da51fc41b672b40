package swarmbackup_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"hatchery/internal/swarmbackup"
	"hatchery/internal/swarmbackup/backuptest"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A record of a log, its text all but the sum.
type record struct {
	kind, index uint64
	text        string
}

// records takes a log apart that backuptest has written, or could have.
func records(t testing.TB, log []byte) []record {
	t.Helper()
	var all []record
	for len(log) >= 8 {
		head := binary.LittleEndian.Uint64(log)
		if head == 0 {
			break
		}
		size, pad := head&(1<<56-1), uint64(0)
		if head>>63 == 1 {
			pad = head >> 56 & 7
		}
		m := log[8:][:size]
		log = log[8+size+pad:]
		r := record{kind: uint64(m[1])}
		_, n := binary.Uvarint(m[3:])
		r.text = strconv.Itoa(int(r.kind))
		if rest := m[3+n:]; len(rest) > 0 {
			_, k := binary.Uvarint(rest[1:])
			payload := rest[1+k:]
			r.text += fmt.Sprintf(" %x", payload)
			switch r.kind {
			case 2:
				r.index, _ = binary.Uvarint(payload[5:])
			case 5:
				r.index, _ = binary.Uvarint(payload[1:])
			}
		}
		all = append(all, r)
	}
	return all
}

func TestLog(t *testing.T) {
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	first := f.Log()
	f.Append(2)
	f.Cut()
	f.Append(4)
	whole := read(t, f.Log())
	end := int(f.End())
	last := len(backuptest.Record(3, 1<<31, []byte{8, 2, 16, 1, 24, 9})) // the state at the end
	change := func(at int) []byte { b := bytes.Clone(whole); b[at] ^= 1; return b }
	cases := []struct {
		summary string
		segment []byte
		good    int
		index   uint64
		want    error
	}{
		{"as it is, with its zeros", whole, end, 9, nil},
		{"without zeros", whole[:end], end, 9, nil},
		{"with a few zeros", whole[:end+3], end, 9, swarmbackup.ErrTorn},
		{"a record's beginning", append(bytes.Clone(whole[:end]), 40, 0, 0, 0, 0, 0, 0, 0, 1, 2), end, 9, swarmbackup.ErrTorn},
		{"an impossible length", append(bytes.Clone(whole[:end]), bytes.Repeat([]byte{0x7f}, 500)...), end, 9, swarmbackup.ErrTorn},
		{"cut in the last record", whole[:end-1], end - last, 9, swarmbackup.ErrTorn},
		{"a changed last record", change(end - 10), end - last, 9, swarmbackup.ErrTorn},
		{"a changed sum of the segment before", change(8 + 4), 0, 5, swarmbackup.ErrTorn},
		{"empty", nil, 0, 5, nil},
	}
	for _, tc := range cases {
		good, _, index, commit, err := swarmbackup.ReadLog(bytes.NewReader(read(t, first)), bytes.NewReader(tc.segment))
		if int(good) != tc.good || index != tc.index || !errors.Is(err, tc.want) || tc.want == nil && commit != index {
			t.Errorf("%s: %d bytes, index %d (committed %d), %v; want %d, %d, %v", tc.summary, good, index, commit, err, tc.good, tc.index, tc.want)
		}
	}
	// Raft's older segments may be gone: then the first that is there begins the sum.
	if good, term, index, _, err := swarmbackup.ReadLog(bytes.NewReader(whole)); int(good) != end || term != 2 || index != 9 || err != nil {
		t.Errorf("the last segment alone: %d bytes, term %d, index %d, %v", good, term, index, err)
	}
}

func TestSnapshot(t *testing.T) {
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	f.Snapshot()
	names, err := filepath.Glob(filepath.Join(f.DockerRoot, "swarm/raft/snap-v3-encrypted/*.snap"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	whole := read(t, names[0])
	if err := swarmbackup.ReadSnapshot(bytes.NewReader(whole)); err != nil {
		t.Error(err)
	}
	changed := bytes.Clone(whole)
	changed[len(changed)-1] ^= 1
	for summary, data := range map[string][]byte{
		"empty": nil, "cut": whole[:len(whole)-1], "longer": append(bytes.Clone(whole), 0), "changed": changed, "cut early": whole[:3], "other": []byte("{}"),
	} {
		if err := swarmbackup.ReadSnapshot(bytes.NewReader(data)); !errors.Is(err, swarmbackup.ErrTorn) {
			t.Errorf("%s: %v", summary, err)
		}
	}
}

func FuzzLog(f *testing.F) {
	folder := backuptest.New(f, f.TempDir(), "swarm", "node")
	folder.Snapshot()
	segment := read(f, folder.Log())[:folder.End()+64]
	f.Add(segment)
	f.Add(segment[:len(segment)-80])
	f.Add(append(bytes.Clone(segment[:folder.End()]), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x80))
	f.Fuzz(func(t *testing.T, data []byte) {
		good, _, _, _, err := swarmbackup.ReadLog(bytes.NewReader(data))
		if good < 0 || good > int64(len(data)) {
			t.Fatalf("%d of %d bytes are whole", good, len(data))
		}
		if err == nil {
			// What was kept reads the same alone.
			again, _, _, _, err := swarmbackup.ReadLog(bytes.NewReader(data[:good]))
			if err != nil || again != good {
				t.Fatalf("%d bytes, alone %d, %v", good, again, err)
			}
		}
		swarmbackup.ReadSnapshot(bytes.NewReader(data))
	})
}

func FuzzLabel(f *testing.F) {
	f.Add([]byte(`{"format":1,"cluster":"homelab","swarm":"abc","term":2,"index":7,"taken":"2026-11-22T10:00:00Z"}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := swarmbackup.ParseLabel(data)
		if err == nil && (l.Cluster == "" || l.Swarm == "" || l.Format != 1 || l.Compare(l) != 0) {
			t.Fatalf("%+v", l)
		}
	})
}
