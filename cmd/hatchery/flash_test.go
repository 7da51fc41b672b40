package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
	"hatchery/imagebuilder/imagefile"
	"hatchery/internal/imagetest"
)

// A fakeMachine has disks that are files.
type fakeMachine struct {
	t   *testing.T
	dir string
	// looks are what is in the readers, look after look; the last one stays.
	looks   [][]drive.Drive
	looked  int
	opened  []drive.Drive
	forced  []bool
	openErr error
	onOpen  func()
}

func (m *fakeMachine) List(context.Context) ([]drive.Drive, error) {
	i := min(m.looked, len(m.looks)-1)
	m.looked++
	return m.looks[i], nil
}

func (m *fakeMachine) Find(_ context.Context, path string) (drive.Drive, error) {
	for _, look := range m.looks {
		for _, d := range look {
			if d.Path == path {
				return d, nil
			}
		}
	}
	return drive.Drive{}, &drive.InputError{Path: path, Problem: "there is no " + path}
}

func (m *fakeMachine) file(d drive.Drive) string {
	return filepath.Join(m.dir, d.Serial)
}

func (m *fakeMachine) Peek(ctx context.Context, d drive.Drive) (flash.Holding, error) {
	d.Path = m.file(d)
	return thisMachine{}.Peek(ctx, d)
}

func (m *fakeMachine) OpenThrough(context.Context, []string, drive.Drive, drive.OpenOptions) (openCard, error) {
	return nil, errors.New("there is no sudo here")
}

func (m *fakeMachine) Open(ctx context.Context, d drive.Drive, o drive.OpenOptions) (openCard, error) {
	m.opened, m.forced = append(m.opened, d), append(m.forced, o.Force)
	if m.openErr != nil {
		return nil, m.openErr
	}
	if m.onOpen != nil {
		m.onOpen()
	}
	file, err := drive.Find(ctx, m.file(d))
	if err != nil {
		return nil, err
	}
	return opened(drive.Open(ctx, file, drive.OpenOptions{}))
}

const fakeSize = 1 << 30

// card is a card in a reader.
func (m *fakeMachine) card(path, serial string) drive.Drive {
	m.t.Helper()
	d := drive.Drive{Path: path, Kind: drive.Disk, Model: "Test Card", Serial: serial, Bus: "usb", Size: fakeSize, Removable: true}
	if _, err := os.Stat(m.file(d)); err != nil {
		if err := os.WriteFile(m.file(d), nil, 0o600); err != nil {
			m.t.Fatal(err)
		}
		if err := os.Truncate(m.file(d), fakeSize); err != nil {
			m.t.Fatal(err)
		}
	}
	return d
}

// A flashRun is what a call of flash left.
type flashRun struct {
	code           int
	stdout, stderr string
}

// flashed calls flash in the present folder, on a machine, with somebody who
// answers; with "-", there is nobody.
func flashed(t *testing.T, m flashMachine, answers string, args ...string) flashRun {
	t.Helper()
	var stdout, stderr bytes.Buffer
	s := &settings{}
	root := newRoot(s)
	old, _, err := root.Find([]string{"flash"})
	if err != nil {
		t.Fatal(err)
	}
	root.RemoveCommand(old)
	c := flashCommand(&flashing{settings: s, machine: m, interval: time.Millisecond}, func(c *cobra.Command) *prompt {
		if answers == "-" {
			return nil
		}
		return &prompt{in: strings.NewReader(answers), out: c.ErrOrStderr(), flush: func() {}}
	})
	root.AddCommand(c)
	root.SetArgs(append([]string{"flash"}, args...))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	code := exitDone
	if err := root.ExecuteContext(ctx); err != nil {
		code = exitCode(err)
		printError(&stderr, err)
	}
	return flashRun{code, stdout.String(), stderr.String()}
}

func (r flashRun) has(t *testing.T, code int, wants ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, want := range wants {
		if !strings.Contains(r.stdout+r.stderr, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Fatalf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
	}
}

// builtCluster builds a cluster in the present folder.
func builtCluster(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("SOURCE_DATE_EPOCH", "1763769600")
	if err := os.WriteFile("cluster.yaml", []byte("name: homelab\nbase: {image: "+imagetest.Bookworm(t)+"}\nuser: {authorized_keys: [\""+strings.TrimSpace(testKey)+"\"]}\nslots: {p1: {hostname: oneil}, p2: {}}\ndocker: {packages: []}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"build", "-q", "--no-sums"}, io.Discard, &stderr); code != exitDone {
		t.Fatal(stderr.String())
	}
}

// sameAsImage compares a card with an image on what the image's map has, but
// for the first block.
func sameAsImage(t *testing.T, card, image string) {
	t.Helper()
	source, err := imagefile.Open(t.Context(), image, imagefile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wanted := make([]int, len(source.Map().Ranges))
	for i := range wanted {
		wanted[i] = i
	}
	if err := source.Pieces(t.Context(), wanted, func(i int, content []byte) error {
		off, n := source.Map().Bytes(source.Map().Ranges[i])
		got := make([]byte, n)
		if _, err := f.ReadAt(got, off); err != nil {
			return err
		}
		if off == 0 {
			got, content = got[4096:], content[4096:]
		}
		if !bytes.Equal(got, content) {
			t.Errorf("%s differs from %s in the %d bytes at %d", card, image, n, off)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 512)
	if _, err := f.ReadAt(head, 0); err != nil || head[510] != 0x55 || head[511] != 0xaa {
		t.Errorf("%s has no partition table (%v)", card, err)
	}
}

// TestFlashWalksThroughCards lets somebody put one card after the other into a
// reader, once too late.
func TestFlashWalksThroughCards(t *testing.T) {
	builtCluster(t)
	m := &fakeMachine{t: t, dir: t.TempDir()}
	first, second := m.card("/dev/sdx", "FIRST"), m.card("/dev/sdx", "SECOND")
	empty := drive.Drive{Path: "/dev/sdx", Kind: drive.Disk, Model: "Reader", Bus: "usb", Removable: true}
	system := drive.Drive{Path: "/dev/nvme0n1", Kind: drive.Disk, Model: "Disk", Serial: "S", Bus: "nvme", Size: 1 << 39, System: true}
	m.looks = [][]drive.Drive{
		{system, empty}, {system, first}, // nothing in yet
		{system, first}, {system, empty}, {system, empty}, {system, second},
	}
	r := flashed(t, m, "y\ny\n", "p1", "p2")
	r.has(t, exitDone, "Put the card for p1 (oneil) into the reader", "p1 (oneil) is on its card", "read back, all of it right",
		"Take p1 (oneil)'s card out, and put the one for p2 in", "p2 is on its card")
	if len(m.opened) != 2 || m.opened[0].Serial != "FIRST" || m.opened[1].Serial != "SECOND" {
		t.Errorf("opened %+v", m.opened)
	}
	sameAsImage(t, m.file(first), "out/p1.img")
	sameAsImage(t, m.file(second), "out/p2.img")

	// The same again: nothing differs.
	m.looks, m.looked = [][]drive.Drive{{first}}, 0
	flashed(t, m, "y\n", "p1").has(t, exitDone, "it holds homelab's p1 (oneil)", "p1 (oneil) is on its card already")
	// Another slot's image: little differs.
	r = flashed(t, m, "-", "p2", "--to", "/dev/sdx", "--yes", "--json")
	r.has(t, exitDone)
	var result struct{ Cards []flashedCard }
	if err := json.Unmarshal([]byte(r.stdout), &result); err != nil || len(result.Cards) != 1 {
		t.Fatalf("%v\n%s", err, r.stdout)
	}
	if c := result.Cards[0]; c.Target != "p2" || c.Result.Mode != flash.Delta || c.Result.Written == 0 || c.Result.Written > c.Result.Mapped/4 {
		t.Errorf("%+v", c)
	}
	sameAsImage(t, m.file(first), "out/p2.img")
}

// TestFlashSeesTheSameCard leaves the card in the reader where the next one
// should be.
func TestFlashSeesTheSameCard(t *testing.T) {
	builtCluster(t)
	m := &fakeMachine{t: t, dir: t.TempDir()}
	m.looks = [][]drive.Drive{{m.card("/dev/sdx", "FIRST")}}
	s := "y\n" + // p1
		"y\n" + // it is in now, says the user
		"y\nn\n" + // write; over p1, which was written just now? no
		"n\n" // and ends
	r := flashed(t, m, s, "p1", "p2")
	r.has(t, exitFailed, "Is the card for p2 in /dev/sdx now?", "which was written just now", "p2: stopped")
	sameAsImage(t, m.file(m.looks[0][0]), "out/p1.img")
}

// TestFlashAsks answers the question in other ways than yes.
func TestFlashAsks(t *testing.T) {
	builtCluster(t)
	for _, test := range []struct {
		summary, answers string
		code             int
		wants            []string
	}{
		{"just enter", "\n", exitFailed, []string{"p1: stopped, as you wished; not written yet: p2"}},
		{"no", "n\n", exitFailed, []string{"stopped"}},
		{"nonsense, then no", "what\nno\n", exitFailed, []string{"stopped"}},
		{"skip both", "s\ns\n", exitDone, nil},
		{"look again, then no", "l\nn\n", exitFailed, []string{"stopped"}},
		{"end of input", "", exitFailed, []string{"the question was not answered"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := &fakeMachine{t: t, dir: t.TempDir()}
			d := m.card("/dev/sdx", "FIRST")
			d.Mounts = []drive.Mount{{Device: "/dev/sdx1", Place: "/media/ann/bootfs", Casual: true}}
			m.looks = [][]drive.Drive{{d}}
			r := flashed(t, m, test.answers, "p1", "p2", "-q") // no progress, but what is asked about
			r.has(t, test.code, append(test.wants, "/dev/sdx, Test Card, 1.1 GB, usb, serial FIRST", "mounted on /media/ann/bootfs: will be unmounted")...)
			if len(m.opened) != 0 {
				t.Error("the card was opened")
			}
		})
	}
}

// TestFlashRefuses is what must never be written to, whoever says yes.
func TestFlashRefuses(t *testing.T) {
	builtCluster(t)
	m := &fakeMachine{t: t, dir: t.TempDir()}
	card := m.card("/dev/sdx", "CARD")
	with := func(path string, change func(*drive.Drive)) drive.Drive {
		d := m.card(path, filepath.Base(path))
		change(&d)
		return d
	}
	m.looks = [][]drive.Drive{{
		card,
		with("/dev/system", func(d *drive.Drive) { d.System = true }),
		with("/dev/mounted", func(d *drive.Drive) { d.Mounts = []drive.Mount{{Device: "/dev/mounted1", Place: "/srv"}} }),
		with("/dev/inside", func(d *drive.Drive) { d.Removable, d.Bus = false, "ata" }),
		with("/dev/locked", func(d *drive.Drive) { d.ReadOnly = true }),
		with("/dev/small", func(d *drive.Drive) { d.Size = 8 << 20 }),
	}}
	for _, test := range []struct {
		summary string
		args    []string
		wants   []string
	}{
		{"the system's", []string{"--to", "/dev/system", "--yes"}, []string{"/dev/system is not written to: this machine runs from it"}},
		{"the system's, with force", []string{"--to", "/dev/system", "--yes", "--force", "system"}, []string{"this machine runs from it"}},
		{"mounted", []string{"--to", "/dev/mounted", "--yes"}, []string{"/srv", "add --force mounted"}},
		{"forced with another's number", []string{"--to", "/dev/mounted", "--yes", "--force", "CARD"}, []string{`"CARD"`, `"mounted"`}},
		{"built in", []string{"--to", "/dev/inside", "--yes"}, []string{"not removable"}},
		{"locked", []string{"--to", "/dev/locked", "--yes", "--force", "locked"}, []string{"read-only", "lock switch"}},
		{"too small", []string{"--to", "/dev/small", "--yes", "--force", "small"}, []string{"/dev/small has 8.4 MB, and the image needs", "larger card"}},
		{"not there", []string{"--to", "/dev/nothing", "--yes"}, []string{"there is no /dev/nothing"}},
		{"no card named", []string{"--yes"}, []string{"--yes needs --to"}},
		{"force alone", []string{"--force", "CARD"}, []string{"--force needs --to"}},
		{"several without anybody", []string{"p2", "--to", "/dev/sdx", "--yes"}, []string{"--yes writes one card"}},
		{"contradictions", []string{"--delta", "--full"}, []string{"which is it?"}},
		{"a map for a target", []string{"--bmap", "x"}, []string{"for an image file"}},
		{"programs are not asked", []string{"--to", "/dev/sdx", "--json"}, []string{"--json is for programs"}},
		{"nobody to ask", []string{"--to", "/dev/sdx"}, []string{"nobody can be asked here"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			flashed(t, m, "-", append([]string{"p1"}, test.args...)...).has(t, exitUsage, test.wants...)
			if len(m.opened) != 0 {
				t.Fatal("it was opened")
			}
		})
	}
	t.Run("forced", func(t *testing.T) {
		flashed(t, m, "-", "p1", "--to", "/dev/mounted", "--yes", "--force", "mounted").has(t, exitDone, "p1 (oneil) is on its card")
		if len(m.forced) != 1 || !m.forced[0] {
			t.Error("the opening was not told")
		}
	})
}

// TestFlashWithoutPrivileges says which command has them.
func TestFlashWithoutPrivileges(t *testing.T) {
	builtCluster(t)
	m := &fakeMachine{t: t, dir: t.TempDir(), openErr: &drive.PermissionError{Path: "/dev/sdx"}}
	m.looks = [][]drive.Drive{{m.card("/dev/sdx", "FIRST")}}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	flashed(t, m, "-", "p1", "--to", "/dev/sdx", "--yes", "--no-verify").has(t, exitFailed, "/dev/sdx", "run `sudo ",
		" flash p1 --to /dev/sdx -f "+filepath.Join(dir, "cluster.yaml")+" -o "+filepath.Join(dir, "out")+" --cache ", " --yes --no-verify`")
}

// TestFlashPicks has two cards in.
func TestFlashPicks(t *testing.T) {
	builtCluster(t)
	m := &fakeMachine{t: t, dir: t.TempDir()}
	m.looks = [][]drive.Drive{{m.card("/dev/sdx", "FIRST"), m.card("/dev/sdy", "SECOND")}}
	flashed(t, m, "9\n2\ny\n", "p1").has(t, exitDone, "  1  /dev/sdx", "  2  /dev/sdy", "Which one is for p1 (oneil)?", "p1 (oneil) is on its card")
	if m.opened[0].Serial != "SECOND" {
		t.Errorf("opened %+v", m.opened)
	}
	flashed(t, m, "q\n", "p1").has(t, exitFailed, "stopped")
}

// TestFlashList shows all disks, cards first.
func TestFlashList(t *testing.T) {
	m := &fakeMachine{t: t, dir: t.TempDir()}
	system := drive.Drive{Path: "/dev/nvme0n1", Kind: drive.Disk, Model: "Disk\x1b[2J", Serial: "S", Bus: "nvme", Size: 1 << 39, System: true}
	m.looks = [][]drive.Drive{{system, m.card("/dev/sdx", "FIRST")}}
	r := flashed(t, m, "-", "--list")
	r.has(t, exitDone, "/dev/nvme0n1", "no: this machine runs from it", "yes\n")
	if strings.Index(r.stdout, "/dev/sdx") > strings.Index(r.stdout, "/dev/nvme0n1") || strings.Contains(r.stdout, "\x1b") {
		t.Errorf("%q", r.stdout)
	}
	var views []driveView
	if err := json.Unmarshal([]byte(flashed(t, m, "-", "--list", "--json").stdout), &views); err != nil || len(views) != 2 || !views[0].Candidate || views[1].Candidate || len(views[1].Objections) == 0 {
		t.Errorf("%v %+v", err, views)
	}
}

// TestFlashInterrupted ends in the middle.
func TestFlashInterrupted(t *testing.T) {
	err := (&flashing{}).failed(&interruptedCard{}, &flashJob{name: "p1"}, []*flashJob{{name: "p2"}})
	if want := "interrupted: p1's card is not finished and will not boot; the same command goes on where it was; not written yet: p2"; err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if errors.Is(err, context.Canceled) {
		t.Error("main would say that nothing partial was left")
	}
}

type interruptedCard struct{}

func (*interruptedCard) Error() string { return "" }
func (*interruptedCard) Is(target error) bool {
	return target == flash.ErrUnfinished || target == context.Canceled
}
