package hat_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/testtool"
	"hatchery/netboot/node/nodetest"
)

// TestKernel has a real kernel carry out what is done to a HAT, on emulated
// boards: one with an expander that has a PCA9554's registers on its I²C bus,
// and a Pi 2 with its GPIO controller.
func TestKernel(t *testing.T) {
	qemu := testtool.Need(t, "qemu-system-arm")
	kernel := nodetest.DebianKernel(t)
	init := nodetest.Build(t, "hatchery/controller/hat/guest")
	trees := filepath.Join(filepath.Dir(filepath.Dir(kernel.Image)), "usr/lib/linux-image-"+kernel.Release)
	for _, test := range []struct {
		summary, machine, tree string
		modules                []string
		more                   []string
	}{
		{"i2c", "vexpress-a15", "vexpress-v2p-ca15-tc1.dtb", []string{"i2c_versatile", "i2c_dev"}, []string{"-device", "max7310,bus=i2c,address=0x20"}},
		{"gpio", "raspi2b", "bcm2836-rpi-2-b.dtb", nil, nil},
	} {
		t.Run(test.summary, func(t *testing.T) {
			initrd := filepath.Join(t.TempDir(), "initrd")
			if err := os.WriteFile(initrd, nodetest.Initramfs(t, init, kernel.Modules(t, test.modules...), nil), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute) // it only ends a test that hangs
			defer cancel()
			cmd := exec.CommandContext(ctx, qemu, append([]string{"-M", test.machine, "-m", "1024", "-display", "none", "-no-reboot", "-nic", "none", "-serial", "stdio", "-monitor", "none",
				"-kernel", kernel.Image, "-dtb", filepath.Join(trees, test.tree), "-initrd", initrd,
				"-append", "console=ttyAMA0 iomem=relaxed maxcpus=1 quiet panic=-1"}, test.more...)...)
			cmd.Env = append(os.Environ(), "QEMU_AUDIO_DRV=none")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var console strings.Builder
			said := ""
			for lines := bufio.NewScanner(out); said == "" && lines.Scan(); {
				line := strings.TrimSpace(lines.Text())
				console.WriteString(line + "\n")
				if strings.HasPrefix(line, "GUEST ") {
					said = line
				}
			}
			cancel()
			cmd.Wait()
			if said != "GUEST done "+test.summary {
				text := console.String()
				t.Errorf("the guest said %q; the console's end:\n%s", said, text[max(0, len(text)-3000):])
			}
		})
	}
}
