package swarmbackup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/enrol"
	"hatchery/internal/sealed"
	"hatchery/internal/swarmbackup"
	"hatchery/internal/swarmbackup/backuptest"
)

// tree gives the files below a folder, with their content.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)] = string(read(t, path))
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

func write(t testing.TB, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func take(t testing.TB, src swarmbackup.Source) []byte {
	t.Helper()
	place := filepath.Join(t.TempDir(), "backup")
	if _, err := swarmbackup.Take(t.Context(), place, src); err != nil {
		t.Fatal(err)
	}
	return read(t, place)
}

func TestTakeAndRestore(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	f.Append(5)
	snapshot, first := f.Index(), f.Log()
	f.Snapshot()
	f.Append(2)
	f.Cut()
	f.Append(2)
	state := t.TempDir()
	write(t, filepath.Join(state, "registry.json"), `{"p2":7}`)
	write(t, filepath.Join(state, "slots/p1"), "deep")
	write(t, filepath.Join(state, ".registry.json.1.hatchery-tmp"), "half")
	place := filepath.Join(t.TempDir(), "backup")
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	label, err := swarmbackup.Take(t.Context(), place, swarmbackup.Source{
		Identity: id, DockerRoot: f.DockerRoot, State: state, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &swarmbackup.Label{Format: 1, Cluster: "homelab", Swarm: "swarm", NodeID: "node", Taken: now, Term: 2, Index: f.Index(), Raw: label.Raw}
	if diff := cmp.Diff(want, label); diff != "" {
		t.Errorf("the label: %s", diff)
	}
	if label.Raw < backuptest.Space || int64(len(read(t, place))) > backuptest.Space/10 {
		t.Errorf("%d bytes of %d: the zeros are in the backup", len(read(t, place)), label.Raw)
	}

	root, restored := t.TempDir(), filepath.Join(t.TempDir(), "state")
	got, err := swarmbackup.Restore(t.Context(), bytes.NewReader(read(t, place)), swarmbackup.Target{Identity: id, DockerRoot: root, State: restored})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the restored label: %s", diff)
	}
	files, back := tree(t, f.DockerRoot), tree(t, root)
	delete(files, "swarm/worker/tasks.db")
	var log []byte // all segments
	for name := range files {
		if strings.HasPrefix(name, "swarm/raft/wal-v3-encrypted/") {
			delete(files, name)
		}
	}
	for _, segment := range []string{first, f.Log()} {
		log = append(log, bytes.TrimRight(read(t, segment), "\x00")...)
		log = append(log, make([]byte, -len(log)&7)...)
	}
	const short = "swarm/raft/wal-v3-encrypted/0000000000000000-0000000000000000.wal"
	wantLog := []string{"4"} // the sum begins
	var last string
	for _, r := range records(t, log) {
		switch {
		case r.kind == 1 && len(wantLog) > 1, r.kind == 4, r.kind == 5 && r.index != snapshot, r.kind == 2 && r.index <= snapshot:
		case r.kind == 3:
			last = r.text
		default:
			wantLog = append(wantLog, r.text)
		}
	}
	var gotLog []string
	for _, r := range records(t, []byte(back[short])) {
		gotLog = append(gotLog, r.text)
	}
	if diff := cmp.Diff(append(wantLog, last), gotLog); diff != "" {
		t.Errorf("the log: %s", diff)
	}
	if good, term, index, commit, err := swarmbackup.ReadLog(strings.NewReader(back[short])); int(good) != len(back[short]) || term != 2 || index != f.Index() || commit != index || err != nil {
		t.Errorf("the log: %d bytes, %d, %d, %d, %v", good, term, index, commit, err)
	}
	delete(back, short)
	if diff := cmp.Diff(files, back); diff != "" {
		t.Errorf("the swarm: %s", diff)
	}
	if diff := cmp.Diff(map[string]string{"registry.json": `{"p2":7}`, "slots/p1": "deep"}, tree(t, restored)); diff != "" {
		t.Errorf("the state: %s", diff)
	}
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if info, _ := d.Info(); path != root && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: others have rights, %v", path, info.Mode())
		}
		return nil
	})
}

// TestTakeOfWhatIsNotWhole takes backups of folders that no engine leaves.
func TestTakeOfWhatIsNotWhole(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	cases := []struct {
		summary string
		change  func(f *backuptest.Folder)
		want    error
		says    string
	}{
		{"no swarm", func(f *backuptest.Folder) { os.RemoveAll(filepath.Join(f.DockerRoot, "swarm")) }, swarmbackup.ErrNoSwarm, ""},
		{"an empty folder", func(f *backuptest.Folder) {
			os.RemoveAll(filepath.Join(f.DockerRoot, "swarm"))
			os.Mkdir(filepath.Join(f.DockerRoot, "swarm"), 0o700)
		}, swarmbackup.ErrNoSwarm, ""},
		{"a worker", func(f *backuptest.Folder) { f.Worker() }, swarmbackup.ErrNoSwarm, ""},
		{"no log", func(f *backuptest.Folder) { os.RemoveAll(filepath.Dir(f.Log())) }, swarmbackup.ErrNoSwarm, ""},
		{"a log with damage inside", func(f *backuptest.Folder) { f.Spill([]byte{9, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}) }, swarmbackup.ErrTorn, "wal"},
		{"a closed segment with damage", func(f *backuptest.Folder) {
			log := f.Log()
			f.Cut()
			data := read(t, log)
			data[len(data)-20] ^= 1
			write(t, log, string(data))
		}, swarmbackup.ErrTorn, "0000000000000000-"},
		{"a snapshot that is cut", func(f *backuptest.Folder) {
			f.Snapshot()
			names, _ := filepath.Glob(filepath.Join(f.DockerRoot, "swarm/raft/snap-v3-encrypted/*"))
			os.Truncate(names[0], 100)
		}, swarmbackup.ErrTorn, ".snap"},
		{"a snapshot that the log does not know", func(f *backuptest.Folder) { f.Unknown() }, swarmbackup.ErrTorn, "does not know"},
		{"a huge state file", func(f *backuptest.Folder) { f.Write("docker-state.json", strings.Repeat(" ", 2<<20)) }, nil, "docker-state.json"},
	}
	for _, tc := range cases {
		t.Run(tc.summary, func(t *testing.T) {
			t.Parallel()
			f := backuptest.New(t, t.TempDir(), "swarm", "node")
			tc.change(f)
			place := filepath.Join(t.TempDir(), "backup")
			_, err := swarmbackup.Take(t.Context(), place, swarmbackup.Source{Identity: id, DockerRoot: f.DockerRoot})
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %v that says %q", err, tc.want, tc.says)
			}
			if entries, _ := os.ReadDir(filepath.Dir(place)); len(entries) > 0 {
				t.Errorf("left %v", entries)
			}
		})
	}
}

// TestTakeWhileAllMoves takes backups while the log grows, records tear, and segments and
// certificates come and go.
func TestTakeWhileAllMoves(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	f.Append(20)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			f.Spill([]byte{120, 0, 0, 0, 0, 0, 0, 0, 8, 2}) // half a record, which the next overwrites
			f.Append(1)
			switch {
			case n%40 == 20:
				f.Snapshot()
			case n%40 == 30:
				f.Cut()
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	var last *swarmbackup.Label
	for range 15 {
		place := filepath.Join(t.TempDir(), "backup")
		label, err := swarmbackup.Take(t.Context(), place, swarmbackup.Source{Identity: id, DockerRoot: f.DockerRoot})
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && label.Compare(last) < 0 {
			t.Errorf("index %d after %d", label.Index, last.Index)
		}
		last = label
		// Restored, it is a whole folder with the same end.
		root := t.TempDir()
		if _, err := swarmbackup.Restore(t.Context(), bytes.NewReader(read(t, place)), swarmbackup.Target{Identity: id, DockerRoot: root}); err != nil {
			t.Fatal(err)
		}
		again := take(t, swarmbackup.Source{Identity: id, DockerRoot: root})
		if l, err := swarmbackup.Check(t.Context(), bytes.NewReader(again), id); err != nil || l.Index != label.Index || l.Term != label.Term {
			t.Errorf("restored: %+v, %v, want index %d", l, err, label.Index)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	ours := newCluster(t, "homelab")
	id := ours.slot(t, 0)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	backup := take(t, swarmbackup.Source{Identity: id, DockerRoot: f.DockerRoot})
	// The same key with another name, as if the cluster had been renamed.
	renamed := *id
	renamed.Peer.Cluster = "elsewhere"
	label := `{"format":1,"cluster":"homelab","swarm":"swarm"}`
	type file struct {
		kind       byte
		name, data string
	}
	archive := func(label string, files ...file) []byte {
		var b bytes.Buffer
		w, err := sealed.NewWriter(&b, id.Key(), []byte(label))
		if err != nil {
			t.Fatal(err)
		}
		zip := gzip.NewWriter(w)
		a := tar.NewWriter(zip)
		for _, f := range files {
			h := &tar.Header{Typeflag: f.kind, Name: f.name, Size: int64(len(f.data)), Mode: 0o600}
			if f.kind == tar.TypeSymlink {
				h.Linkname = "/etc"
			}
			if err := a.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			io.WriteString(a, f.data)
		}
		for _, end := range []io.Closer{a, zip, w} {
			if err := end.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return b.Bytes()
	}
	// More follows the archive, which is no reason not to look at the end.
	var b bytes.Buffer
	w, err := sealed.NewWriter(&b, id.Key(), []byte(label))
	if err != nil {
		t.Fatal(err)
	}
	inner, err := sealed.NewReader(bytes.NewReader(backup), id.Key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, io.MultiReader(inner, bytes.NewReader(make([]byte, 300<<10)))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	long := b.Bytes()
	var other *swarmbackup.OtherClusterError
	cases := []struct {
		summary string
		backup  []byte
		id      *enrol.Identity
		want    func(error) bool
	}{
		{"another key", backup, newCluster(t, "homelab").slot(t, 0), is(sealed.ErrForeign)},
		{"a slot's key", backup, ours.slot(t, 1), is(sealed.ErrForeign)},
		{"another cluster", backup, &renamed, func(err error) bool { return errors.As(err, &other) && other.Have == "homelab" }},
		{"cut", backup[:len(backup)-1], id, is(sealed.ErrDamaged)},
		{"no backup", []byte("SQLite"), id, is(sealed.ErrFormat)},
		{"a later format", archive(`{"format":2,"cluster":"homelab","swarm":"s"}`), id, says("later hatchery")},
		{"no files", archive(label), id, is(sealed.ErrDamaged)},
		{"out of the folder", archive(label, file{tar.TypeReg, "swarm/../../escaped", "x"}), id, says("no file of a backup")},
		{"beside the folder", archive(label, file{tar.TypeReg, "swarm/../escaped", "x"}), id, says("no file of a backup")},
		{"cut behind the archive", long[:len(long)-1], id, is(sealed.ErrDamaged)},
		{"an absolute path", archive(label, file{tar.TypeReg, "/etc/x", "x"}), id, is(sealed.ErrDamaged)},
		{"a link", archive(label, file{tar.TypeSymlink, "swarm/x", ""}), id, is(sealed.ErrDamaged)},
		{"a file twice", archive(label, file{tar.TypeReg, "swarm/x", "x"}, file{tar.TypeReg, "swarm/x", "y"}), id, is(fs.ErrExist)},
	}
	for _, tc := range cases {
		root := t.TempDir()
		state := filepath.Join(t.TempDir(), "state")
		write(t, filepath.Join(root, "swarm/old"), "old")
		write(t, filepath.Join(state, "old"), "old")
		_, err := swarmbackup.Restore(t.Context(), bytes.NewReader(tc.backup), swarmbackup.Target{Identity: tc.id, DockerRoot: root, State: state})
		if err == nil || !tc.want(err) {
			t.Errorf("%s: %v", tc.summary, err)
		}
		if diff := cmp.Diff(map[string]string{"swarm/old": "old"}, tree(t, root)); diff != "" {
			t.Errorf("%s: the swarm changed: %s", tc.summary, diff)
		}
		if diff := cmp.Diff(map[string]string{"old": "old"}, tree(t, filepath.Dir(state)+"/state")); diff != "" {
			t.Errorf("%s: the state changed: %s", tc.summary, diff)
		}
		for _, dir := range []string{root, filepath.Dir(state)} {
			if left, _ := filepath.Glob(filepath.Join(dir, "*.restoring")); len(left) > 0 {
				t.Errorf("%s: left %v", tc.summary, left)
			}
		}
	}
}

func is(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }

func says(text string) func(error) bool {
	return func(err error) bool { return strings.Contains(err.Error(), text) }
}

// TestRestoreOverSomething: what was there is kept beside.
func TestRestoreOverSomething(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	old := t.TempDir()
	write(t, filepath.Join(old, "file"), "of the backup")
	backup := take(t, swarmbackup.Source{Identity: id, DockerRoot: f.DockerRoot, State: old})
	for _, keep := range []bool{false, true} {
		root, base := t.TempDir(), t.TempDir()
		state := filepath.Join(base, "controller")
		write(t, filepath.Join(state, "file"), "newer")
		restore := func() {
			t.Helper()
			if _, err := swarmbackup.Restore(t.Context(), bytes.NewReader(backup), swarmbackup.Target{Identity: id, DockerRoot: root, State: state, KeepState: keep}); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(root, "swarm/raft/x"), "first")
		restore()
		write(t, filepath.Join(root, "swarm.restoring/left"), "by a power cut")
		restore()
		files := tree(t, root)
		if files["swarm.before-restore-1/raft/x"] != "first" || files["swarm.before-restore-2/state.json"] != "[]" || files["swarm/state.json"] != "[]" || files["swarm.restoring/left"] != "" {
			t.Errorf("the swarm's folders: %v", len(files))
		}
		want := map[string]string{"controller/file": "of the backup", "controller.before-restore-1/file": "newer", "controller.before-restore-2/file": "of the backup"}
		if keep {
			want = map[string]string{"controller/file": "newer"}
		}
		if diff := cmp.Diff(want, tree(t, base)); diff != "" {
			t.Errorf("keep %v: the state's folders: %s", keep, diff)
		}
	}
}

func TestRestoreEndsWithItsContext(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	backup := take(t, swarmbackup.Source{Identity: id, DockerRoot: f.DockerRoot})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root := t.TempDir()
	if _, err := swarmbackup.Restore(ctx, bytes.NewReader(backup), swarmbackup.Target{Identity: id, DockerRoot: root}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if files := tree(t, root); len(files) > 0 {
		t.Errorf("left %v", files)
	}
}

func TestNewestFirst(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	offer := func(id, swarm string, hour int, term, index uint64) swarmbackup.Offer {
		return swarmbackup.Offer{ID: id, Label: swarmbackup.Label{Swarm: swarm, Taken: at(hour), Term: term, Index: index}}
	}
	cases := []struct {
		summary string
		offers  []swarmbackup.Offer
		want    string
	}{
		{"by index", []swarmbackup.Offer{offer("a", "s", 1, 2, 10), offer("b", "s", 2, 2, 20)}, "b a"},
		{"a clock that went back", []swarmbackup.Offer{offer("a", "s", 9, 2, 10), offer("b", "s", 2, 2, 20)}, "b a"},
		{"went on from an older backup", []swarmbackup.Offer{offer("a", "s", 1, 2, 90), offer("b", "s", 2, 3, 50)}, "b a"},
		{"the same log, later", []swarmbackup.Offer{offer("a", "s", 1, 2, 10), offer("b", "s", 2, 2, 10)}, "b a"},
		{"another swarm, later", []swarmbackup.Offer{offer("a", "s", 1, 2, 900), offer("b", "new", 5, 2, 10)}, "b a"},
		{"two swarms, mixed", []swarmbackup.Offer{offer("a", "s", 1, 2, 10), offer("b", "new", 2, 2, 50), offer("c", "s", 3, 2, 5), offer("d", "new", 1, 2, 60)}, "a c d b"},
	}
	several := offer("b", "s", 1, 2, 10)
	several.Nodes = make([]swarmbackup.Node, 2)
	cases = append(cases, struct {
		summary string
		offers  []swarmbackup.Offer
		want    string
	}{"one label, and two nodes against one", []swarmbackup.Offer{offer("a", "s", 1, 2, 10), several}, "b a"})
	for _, tc := range cases {
		swarmbackup.NewestFirst(tc.offers)
		var got []string
		for _, o := range tc.offers {
			got = append(got, o.ID)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v, want %s", tc.summary, got, tc.want)
		}
	}
}

// FuzzRestore reads archives that the controller's key sealed, with any content.
func FuzzRestore(f *testing.F) {
	id := newCluster(f, "homelab").slot(f, 0)
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	a := tar.NewWriter(zip)
	a.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "swarm/state.json", Size: 2, Mode: 0o600})
	io.WriteString(a, "[]")
	a.Close()
	zip.Close()
	label, err := json.Marshal(swarmbackup.Label{Format: 1, Cluster: "homelab", Swarm: "s"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), label)
	f.Add([]byte{}, label)
	f.Add(b.Bytes()[:40], []byte("{}"))
	f.Fuzz(func(t *testing.T, content, label []byte) {
		var stream bytes.Buffer
		w, err := sealed.NewWriter(&stream, id.Key(), label)
		if err != nil {
			return
		}
		w.Write(content)
		w.Close()
		dir := t.TempDir()
		root := filepath.Join(dir, "docker")
		_, err = swarmbackup.Restore(t.Context(), &stream, swarmbackup.Target{Identity: id, DockerRoot: root})
		if err == nil {
			return
		}
		if files := tree(t, dir); len(files) > 0 {
			t.Fatalf("%v left %v", err, files)
		}
	})
}

// TestTakeWhileTheKeyChanges: raft's files are read with the key that belongs
// to them, or read again.
func TestTakeWhileTheKeyChanges(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	looks := 0
	backup := take(t, swarmbackup.Source{Identity: id, DockerRoot: f.DockerRoot, Now: func() time.Time {
		// Now is asked after the folder was looked at.
		if looks++; looks == 1 {
			f.Write("certificates/swarm-node.key", "the next key")
		}
		return time.Now()
	}})
	root := t.TempDir()
	if _, err := swarmbackup.Restore(t.Context(), bytes.NewReader(backup), swarmbackup.Target{Identity: id, DockerRoot: root}); err != nil {
		t.Fatal(err)
	}
	if key := tree(t, root)["swarm/certificates/swarm-node.key"]; key != "the next key" || looks != 2 {
		t.Errorf("the key is %q after %d looks", key, looks)
	}
}
