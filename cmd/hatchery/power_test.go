package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/controller/hat"
	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

// hatVariable names the file that stands for a HAT's expander, for the commands
// of scripts, which are this test's own binary.
const hatVariable = "HATCHERY_TEST_HAT"

func init() {
	if place := os.Getenv(hatVariable); place != "" {
		openHAT = func(o hat.Options) (power.HAT, func() error, error) { return fileHAT(place, o) }
	}
}

// fileHAT is a HAT whose expander's registers lie in a file.
func fileHAT(place string, o hat.Options) (power.HAT, func() error, error) {
	o.Bus, o.Delay = fileBus{place}, -1
	if o.Version == "" {
		o.Version = "2.6"
	}
	h, err := hat.Open(o)
	if err != nil {
		return nil, nil, err
	}
	return h, h.Close, nil
}

type fileBus struct{ place string }

func (b fileBus) ReadByteData(register byte) (byte, error) {
	registers, err := os.ReadFile(b.place)
	if err != nil {
		return 0, err
	}
	if register == hat.RegIn {
		register = hat.RegOut
	}
	return registers[register], nil
}

func (b fileBus) WriteByteData(register, value byte) error {
	f, err := os.OpenFile(b.place, os.O_WRONLY, 0) // in place: who reads meanwhile finds all of them
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{value}, int64(register))
	return errors.Join(err, f.Close())
}

func (b fileBus) Close() error { return nil }

// TestPower has a service switch, and compares what is printed and what the HAT
// has then.
func TestPower(t *testing.T) {
	dir := t.TempDir()
	expander := filepath.Join(dir, "expander")
	if err := os.WriteFile(expander, []byte{0, 0x11, 0, 0, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	h, closed, err := fileHAT(expander, hat.Options{Lock: filepath.Join(dir, "run", "hat.lock")})
	if err != nil {
		t.Fatal(err)
	}
	defer closed()
	node := &nodefile.Node{Role: nodefile.Controller, Targets: []nodefile.Target{{Name: "controller"}}}
	for n := 1; n <= 3; n++ {
		node.Targets = append(node.Targets, nodefile.Target{Name: clusterctrl.SlotName(n), Slot: n, Hostname: clusterctrl.SlotName(n)})
	}
	atWork := map[int]*power.Work{}
	service, err := power.New(power.Options{
		AtWork: func(n int) *power.Work { return atWork[n] },
		Node:   node, HAT: h, StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Limits: power.Limits{OffFor: 1, Settle: 1},
		Links:  func() (map[int]bool, error) { return map[int]bool{3: true}, nil },
		Shutdown: func(_ context.Context, n int) error {
			if n == 1 {
				return nil
			}
			return &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "hatchery.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(power.Prefix, service.Calls())
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	defer server.Close()

	for _, test := range []struct {
		line   string
		code   int
		stdout string
		stderr string
		out    byte
	}{
		{"power", 0, `ClusterHAT 2.6, hub on, alert off.
SLOT   HOSTNAME        POWER    LINK   DETAIL
p1     p1              on       down   -
p2     p2              off      down   -
p3     p3              off      up     -
p4     -               off      down   not of this cluster
`, "", 0x11},
		{"power on", 0, "p1: had power already.\np2: switched on.\np3: switched on.\n", "", 0x17},
		{"power off p1 p2 --dry-run", 0, "p1: its node would be asked to shut down, then its power cut, and it would be kept off.\n" +
			"p2: its node would be asked to shut down, then its power cut, and it would be kept off.\n", "", 0x17},
		{"power off p1 p2", 0, "p1: switched off; it stays off until `hatchery power on p1`.\n" +
			"p2: switched off; it stays off until `hatchery power on p2` (its node could not be asked to shut down: dial tcp: i/o timeout).\n", "", 0x14},
		{"power off p2 p9 --now", exitUsage, "p2: had no power; it stays so until `hatchery power on p2`.\n", "hatchery: p9: p9: there is no such slot\n", 0x14},
		{"power status p1 p3", 0, `ClusterHAT 2.6, hub on, alert off.
SLOT   HOSTNAME        POWER    LINK   DETAIL
p1     p1              off      down   off by hand: stays off until ` + "`hatchery power on p1`" + `
p3     p3              on       up     -
`, "", 0x14},
		{"power status p9", exitUsage, "", "hatchery: p9 is neither a slot of the HAT nor of this cluster\n", 0x14},
		{"power cycle p1 p3 --now", 0, "p1: had no power; switched on.\np3: switched off and on.\n", "", 0x15},
		{"power cycle --all --now --dry-run --json", 0, `[
  {
    "slot": "p1",
    "did": "its power would be cut, and switched on again after 1ns",
    "dry_run": true
  },
  {
    "slot": "p2",
    "did": "would be switched on",
    "dry_run": true
  },
  {
    "slot": "p3",
    "did": "its power would be cut, and switched on again after 1ns",
    "dry_run": true
  }
]
`, "", 0x15},
		{"power hub off", 0, "the USB hub was switched off (no slot has a link until it is on again).\n", "", 0x35},
		{"power hub on", 0, "the USB hub was switched on.\n", "", 0x15},
		{"power alert on --json", 0, "{\n  \"did\": \"the alert LED was switched on\"\n}\n", "", 0x55},
		{"power off", exitUsage, "", "hatchery: name the slots, `hatchery power off p2`, or say --all\n", 0x55},
		{"power off --all p1", exitUsage, "", "hatchery: name the slots, or say --all: not both\n", 0x55},
		{"power hub", exitUsage, "", "hatchery: say `hatchery power hub on`, or off\n", 0x55},
		{"power p1", exitUsage, "", "hatchery: no command \"p1\"; see `hatchery --help`\n", 0x55},
	} {
		t.Run(test.line, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append(strings.Fields(test.line), "--socket", socket), &stdout, &stderr)
			if code != test.code || stdout.String() != test.stdout || stderr.String() != test.stderr {
				t.Errorf("%d, %s%s\nwant %d, %s%s", code, stdout.String(), stderr.String(), test.code, test.stdout, test.stderr)
			}
			registers, err := os.ReadFile(expander)
			if err != nil || registers[hat.RegOut] != test.out {
				t.Errorf("%#02x, %v, want %#02x", registers, err, test.out)
			}
		})
	}

	// What is at work on a slot keeps its power, and is named.
	atWork[3] = &power.Work{What: "the rebuild rebuild-12 by anna is at work on it (write)", Remedy: "`hatchery rebuild --cancel rebuild-12` ends it"}
	for _, test := range []struct {
		line string
		code int
		want string
	}{
		{"power cycle p3 --now", 1, "p3 keeps its power: the rebuild rebuild-12 by anna is at work on it (write); `hatchery rebuild --cancel rebuild-12` ends it; --force"},
		{"power hub off", 1, "the USB hub stays on, it carries the link of p3: "},
		{"power off p3 --now --dry-run", 0, "p3: would be refused (p3 keeps its power: the rebuild rebuild-12"},
		{"power cycle p3 --now --force", 0, "p3: switched off and on."},
		{"power hub off --force", 0, "the USB hub was switched off"},
	} {
		t.Run(test.line, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append(strings.Fields(test.line), "--socket", socket), &stdout, &stderr)
			if code != test.code || !strings.Contains(stdout.String()+stderr.String(), test.want) {
				t.Errorf("%d, %s%s", code, stdout.String(), stderr.String())
			}
		})
	}
}

// TestPowerWithoutService: where no service runs, what it was at with a slot when it ended keeps
// the slot's power, and so does what nobody can tell.
func TestPowerWithoutService(t *testing.T) {
	dir := t.TempDir()
	expander := filepath.Join(dir, "expander")
	if err := os.WriteFile(expander, []byte{0, 0x1f, 0, 0, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	was := openHAT
	defer func() { openHAT = was }()
	openHAT = func(o hat.Options) (power.HAT, func() error, error) { return fileHAT(expander, o) }
	lay := func(name, content string) {
		t.Helper()
		place := filepath.Join(dir, "state", name)
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cards, operations := filepath.Join(reimage.Folder, "reimage.json"), filepath.Join(nodefile.ServiceDir, operation.File)
	lay(cards, `{"format":1,"slots":{"2":{"operation":"rebuild-7","phase":"writing","root":{"slot":2,"base":"sha256:`+strings.Repeat("0", 64)+`"}}}}`)
	lay(operations, `{"version":1,"last":9,"operations":[
		{"id":"rebuild-8","request":{"kind":"rebuild"},"state":"done","slots":[{"slot":4,"name":"p4","step":"done"}]},
		{"id":"upgrade-9","request":{"kind":"upgrade"},"state":"running","slots":[{"slot":1,"name":"p1","step":"done"},{"slot":3,"name":"p3","step":"drain"}]}]}`)
	for _, test := range []struct {
		line string
		code int
		want string
		out  byte
	}{
		{"power", 0, "p2     -               on", 0x1f},
		{"power off p1 --now", 0, "p1: switched off", 0x1e},
		{"power off p2 --now", 1, "p2 keeps its power: its card is written anew, as far as is known without the service: the card is being written; `sudo systemctl start hatchery` goes on with it; --force", 0x1e},
		{"power cycle p3 --now", 1, "p3 keeps its power: the upgrade upgrade-9 is not over (drain); `sudo systemctl start hatchery` goes on with it; --force", 0x1e},
		{"power off p4 --now", 0, "p4: switched off", 0x16},
		{"power hub off", 1, "the USB hub stays on, it carries the link of p2", 0x16},
		{"power off p2 --now --force", 0, "p2: switched off", 0x14},
		{"power on p4", 0, "p4: switched on", 0x1c},
		{"damaged", 1, "p4 keeps its power: nobody can tell whether its card is being written: ", 0x1c},
		{"damaged --force", 0, "p4: switched off", 0x14},
	} {
		t.Run(test.line, func(t *testing.T) {
			line, damaged := strings.CutPrefix(test.line, "damaged")
			if damaged {
				lay(cards, "{")
				line = "power off p4 --now" + line
			}
			var stdout, stderr bytes.Buffer
			args := append(strings.Fields(line), "--socket", filepath.Join(dir, "nobody"), "--config-dir", dir, "--state-dir", filepath.Join(dir, "state"), "--run-dir", filepath.Join(dir, "run"))
			code := run(t.Context(), args, &stdout, &stderr)
			if code != test.code || !strings.Contains(stdout.String()+stderr.String(), test.want) {
				t.Errorf("%d, %s%s\nwant %d, %s", code, stdout.String(), stderr.String(), test.code, test.want)
			}
			if registers, err := os.ReadFile(expander); err != nil || registers[hat.RegOut] != test.out {
				t.Errorf("%#02x, %v, want %#02x", registers, err, test.out)
			}
		})
	}
}
