package difference_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder/difference"
	"hatchery/internal/testtool"
)

// capabilityNote is how a report shows a file's capability attribute, given in
// hexadecimal digits.
func capabilityNote(t *testing.T, value string) string {
	t.Helper()
	raw, err := hex.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	d := compare(t, fake(t, ""), fake(t, fmt.Sprintf("-755 0:0 /x \"\" %q", "x:security.capability="+string(raw))), difference.Options{})
	_, note, _ := strings.Cut(report(t, d, difference.TextOptions{}), "(security.capability=")
	note, _, _ = strings.Cut(note, ")\n")
	return note
}

func TestCapabilities(t *testing.T) {
	for value, want := range map[string]string{
		"0100000200200000000000000000000000000000":         "cap_net_raw=ep",
		"0000000200200000000000000000000000000000":         "cap_net_raw=p",
		"0100000200340000000400000000000000000000":         "cap_net_bind_service=eip cap_net_admin,cap_net_raw=ep",
		"0000000300200000000000000000000000000000e8030000": "cap_net_raw=p [rootid=1000]",
		"0100000200000000000000000001000000000000":         "cap_checkpoint_restore=ep",
		"0000000200000000000000000002000000000000":         "41=p",
		"0000000200000000000000000000000000000000":         "=",
		"0000000400200000000000000000000000000000":         "0x0000000400200000000000000000000000000000",
		"00000002": "0x00000002",
	} {
		if got := capabilityNote(t, value); got != want {
			t.Errorf("%s: %s, want %s", value, got, want)
		}
	}
}

// TestCapabilitiesGetcap has setcap and getcap judge.
func TestCapabilitiesGetcap(t *testing.T) {
	testtool.NeedRoot(t)
	setcap, getcap, getfattr := testtool.Need(t, "setcap"), testtool.Need(t, "getcap"), testtool.Need(t, "getfattr")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, caps := range []string{"cap_net_raw=ep", "cap_net_admin,cap_net_raw=p", "cap_sys_nice=eip", "cap_chown,cap_bpf=ip", "cap_perfmon,cap_mac_admin=ep"} {
		if out, err := exec.Command(setcap, caps, file).CombinedOutput(); err != nil {
			testtool.Missing(t, fmt.Sprintf("a file system that takes capabilities (%v: %s)", err, out))
		}
		value := strings.TrimSpace(testtool.Run(t, getfattr, "--absolute-names", "-n", "security.capability", "-e", "hex", file))
		_, value, _ = strings.Cut(value, "=0x")
		out, err := exec.Command(getcap, file).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if want := strings.TrimSpace(strings.TrimPrefix(string(out), file)); capabilityNote(t, value) != want {
			t.Errorf("%s: %s, and getcap says %s", value, capabilityNote(t, value), want)
		}
	}
}
