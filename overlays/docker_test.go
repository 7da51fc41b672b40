package overlays_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/testtool"
	"hatchery/overlays"
)

// engineKeys are the keys of daemon.json that are used, each with the version
// of Docker Engine that was the first to know it (moby's daemon/config/config.go
// and config_linux.go, tag by tag; 18.09 is the oldest looked at). An engine
// does not start on a key that it does not know.
var engineKeys = map[string][2]int{
	"bip":                   {18, 9},
	"default-address-pools": {18, 9},
	"ip-forward-no-drop":    {28, 0},
	"log-driver":            {18, 9},
	"log-opts":              {18, 9},
	"storage-driver":        {18, 9},
}

// engineVersions are of bullseye, bookworm, of Docker's own repository from
// then to now, of trixie (26.1.5), and what is not known.
var engineVersions = []string{
	"", "20.10.5", "20.10.24", "23.0.6", "24.0.9", "25.0.5", "26.1.5", "27.5.1", "28.0.0", "28.5.2", "29.0.0", "29.7.2", "30.0.0-rc.1",
}

func daemonJSON(t testing.TB, data overlays.Data) []byte {
	t.Helper()
	entries := mustRender(t, data)
	i := slices.IndexFunc(entries, func(e overlays.Entry) bool { return e.Path == "/etc/docker/daemon.json" })
	if i < 0 {
		t.Fatal("no daemon.json")
	}
	return entries[i].Content
}

func TestDaemonJSON(t *testing.T) {
	for _, version := range engineVersions {
		for _, name := range []string{"controller", "p1"} {
			text := daemonJSON(t, exampleData(name, engine(version)))
			var keys map[string]any
			if err := json.Unmarshal(text, &keys); err != nil {
				t.Fatalf("%s: %v\n%s", version, err, text)
			}
			have := [2]int{18, 9}
			if match := regexp.MustCompile(`^(\d+)\.(\d+)`).FindStringSubmatch(version); match != nil {
				have[0], _ = strconv.Atoi(match[1])
				have[1], _ = strconv.Atoi(match[2])
			}
			for key := range keys {
				first, ok := engineKeys[key]
				if !ok {
					t.Errorf("%s: nobody has looked which engines know the key %s", version, key)
				}
				if slices.Compare(first[:], have[:]) > 0 {
					t.Errorf("engine %q does not know the key %s, which came with %v", version, key, first)
				}
			}
			if _, ok := keys["live-restore"]; ok {
				t.Errorf("%s: swarm refuses live-restore", version)
			}
			if got, want := keys["ip-forward-no-drop"] == true, name == "controller" && have[0] >= 28; got != want {
				t.Errorf("%s, %s: ip-forward-no-drop is %v", version, name, got)
			}
			// From 29 on the engine's own choice is containerd's image store,
			// which has no such driver.
			if got, want := keys["storage-driver"] == "overlay2", have[0] < 29; got != want {
				t.Errorf("%s: overlay2 is %v", version, got)
			}
		}
	}
}

// TestDockerPools: no pool of Docker's may hold the cluster's own networks.
func TestDockerPools(t *testing.T) {
	for _, version := range engineVersions {
		var config struct {
			BIP   netip.Prefix `json:"bip"`
			Pools []struct {
				Base netip.Prefix `json:"base"`
				Size int          `json:"size"`
			} `json:"default-address-pools"`
		}
		if err := json.Unmarshal(daemonJSON(t, exampleData("controller", engine(version))), &config); err != nil {
			t.Fatal(err)
		}
		ranges := []netip.Prefix{config.BIP}
		for _, pool := range config.Pools {
			ranges = append(ranges, pool.Base)
			if pool.Base != pool.Base.Masked() || pool.Size < pool.Base.Bits() {
				t.Errorf("pool %s of size %d", pool.Base, pool.Size)
			}
		}
		for i, r := range ranges {
			for _, ours := range []netip.Prefix{clusterctrl.Network, clusterctrl.RootNetwork} {
				if r.Overlaps(ours) {
					t.Errorf("%s overlaps %s", r, ours)
				}
			}
			for _, other := range ranges[:i] {
				if r.Overlaps(other) {
					t.Errorf("%s overlaps %s", r, other)
				}
			}
		}
		if len(config.Pools) == 0 {
			t.Error("no pools")
		}
	}
}

// TestDockerdTakesDaemonJSON has the machine's engine judge the file of its
// version, and those that HATCHERY_DOCKERD lists, as PATH lists folders.
func TestDockerdTakesDaemonJSON(t *testing.T) {
	programs := append(filepath.SplitList(os.Getenv("HATCHERY_DOCKERD")), testtool.Need(t, "dockerd"))
	for _, program := range programs {
		match := regexp.MustCompile(`version ([0-9]+[0-9.]*)`).FindStringSubmatch(testtool.Run(t, program, "--version"))
		if match == nil {
			t.Fatalf("%s does not say its version", program)
		}
		t.Run(match[1], func(t *testing.T) {
			for _, name := range []string{"controller", "p1"} {
				text := daemonJSON(t, exampleData(name, engine(match[1])))
				if refused := refusal(t, program, text); refused != "" {
					t.Errorf("%s: %s", name, refused)
				}
			}
			if refusal(t, program, []byte(`{"nonsense": true}`)) == "" {
				t.Error("it takes a key that is nonsense: this test proves nothing")
			}
			major, _, _ := strings.Cut(match[1], ".")
			if n, err := strconv.Atoi(major); err != nil || n < 28 {
				if refusal(t, program, daemonJSON(t, exampleData("controller", engine("28.0.0")))) == "" {
					t.Error("it takes what is for a newer engine: it need not be left out")
				}
			}
		})
	}
}

// refusal is what an engine has against a configuration. Engines before 23.0
// cannot be asked; they read it, and then fail on the folder that they get.
func refusal(t *testing.T, program string, config []byte) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(path, config, 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"--config-file", path}
	if strings.Contains(testtool.Run(t, program, "--help"), "--validate") {
		args = append(args, "--validate")
	} else {
		testtool.NeedRoot(t)
		args = append(args, "--data-root", "/dev/null/none", "--exec-root", filepath.Join(dir, "run"),
			"--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+filepath.Join(dir, "socket"))
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	switch said := string(out); {
	case strings.Contains(said, "unable to configure"):
		return said
	case strings.Contains(said, "configuration OK"), strings.Contains(said, "/dev/null/none"):
		return ""
	default:
		t.Fatalf("%v\n%s", err, said)
		return ""
	}
}

// TestNothingOfDockers: a target without Docker's packages gets nothing that
// is there for Docker.
func TestNothingOfDockers(t *testing.T) {
	for _, name := range []string{"controller", "p1"} {
		for _, e := range mustRender(t, exampleData(name, noDocker)) {
			if strings.Contains(e.Path, "docker") || strings.Contains(e.Path, "packages") || strings.HasPrefix(e.From, "overlays/docker/") {
				t.Errorf("%s: %s", name, e.Path)
			}
		}
	}
}
