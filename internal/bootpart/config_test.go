package bootpart_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/bootpart"
)

// bookwormConfig is what the firmware reads on a fresh Raspberry Pi OS
// bookworm.
const bookwormConfig = `# For more options and information see
# http://rptl.io/configtxt
# Some settings may impact device functionality. See link above for details

# Uncomment some or all of these to enable the optional hardware interfaces
#dtparam=i2c_arm=on
#dtparam=i2s=on
#dtparam=spi=on

# Enable audio (loads snd_bcm2835)
dtparam=audio=on

# Automatically load overlays for detected cameras
camera_auto_detect=1

# Automatically load overlays for detected DSI displays
display_auto_detect=1

# Automatically load initramfs files, if found
auto_initramfs=1

# Enable DRM VC4 V3D driver
dtoverlay=vc4-kms-v3d
max_framebuffers=2

# Don't have the firmware create an initial video= setting in cmdline.txt.
# Use the kernel's default instead.
disable_fw_kms_setup=1

# Run in 64-bit mode
arm_64bit=1

# Disable compensation for displays with overscan
disable_overscan=1

# Run as fast as firmware / board allows
arm_boost=1

[cm4]
# Enable host mode on the 2711 built-in XHCI USB controller.
# This line should be removed if the legacy DWC2 controller is required
# (e.g. for USB device mode) or if USB support is not required.
otg_mode=1

[cm5]
dtoverlay=dwc2,dr_mode=host

[all]
`

// edit is one change of a config.txt, for a table.
type edit func(t *testing.T, c *bootpart.Config)

func set(section, key, value string) edit {
	return func(t *testing.T, c *bootpart.Config) {
		t.Helper()
		if err := c.Set(section, key, value); err != nil {
			t.Error(err)
		}
	}
}

func add(section, line string) edit {
	return func(t *testing.T, c *bootpart.Config) {
		t.Helper()
		if err := c.Add(section, line); err != nil {
			t.Error(err)
		}
	}
}

func commentOut(section string, wantN int, match func(string) bool) edit {
	return func(t *testing.T, c *bootpart.Config) {
		t.Helper()
		if n := c.CommentOut(section, match); n != wantN {
			t.Errorf("%d lines commented out, want %d", n, wantN)
		}
	}
}

func dwc2(line string) bool { return bootpart.IsOverlay(line, "dwc2") }

var update = flag.Bool("update", false, "write the golden files anew")

// TestConfigGolden makes the edits of a node and of a controller in the file
// that Raspberry Pi OS ships.
func TestConfigGolden(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		edits    []edit
	}{
		{"bookworm-node.txt", bookwormConfig, []edit{
			commentOut("", 1, dwc2),
			commentOut("", 1, func(line string) bool { return bootpart.IsSetting(line, "otg_mode") }),
			add("all", "dtoverlay=dwc2,dr_mode=peripheral"),
			set("all", "gpu_mem", "16"),
			set("all", "arm_64bit", "0"),
			set("all", "enable_uart", "1"),
		}},
		{"bookworm-controller.txt", bookwormConfig, []edit{
			add("all", "dtoverlay=dwc2,dr_mode=host"),
			set("pi4", "otg_mode", "1"),
			set("cm4", "otg_mode", "0"),
			add("pi5", "dtparam=i2c_arm=on"),
			set("all", "gpu_mem", "16"),
		}},
		{"bookworm-controller-crlf.txt", strings.ReplaceAll(bookwormConfig, "\n", "\r\n"), []edit{
			set("pi4", "otg_mode", "1"),
			set("cm4", "otg_mode", "0"),
			set("all", "gpu_mem", "16"),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := bootpart.ParseConfig([]byte(tt.in))
			for _, e := range tt.edits {
				e(t, c)
			}
			golden := filepath.Join("testdata", tt.name)
			if *update {
				if err := os.WriteFile(golden, c.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(c.Bytes())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestConfigEdits(t *testing.T) {
	for _, tt := range []struct {
		summary, in string
		edits       []edit
		want        string
	}{
		{"into nothing", "", []edit{set("all", "a", "1")}, "a=1\n"},
		{"a section into nothing", "", []edit{set("[pi4]", "a", "1")}, "[pi4]\na=1\n[all]\n"},
		{"no newline at the end", "a=1", []edit{set("all", "b", "2")}, "a=1\nb=2\n"},
		{"in place", "a=1\nb=2\n", []edit{set("all", "a", "3")}, "a=3\nb=2\n"},
		{"of several, the last", "a=1\nb=2\na=3\n", []edit{set("all", "a", "4")}, "b=2\na=4\n"},
		{"nothing to change", " a = 1 \n", []edit{set("all", "a", "1")}, " a = 1 \n"},
		{"commented ones stay", "#a=1\n", []edit{set("all", "a", "2")}, "#a=1\na=2\n"},
		{"another section's stays", "[pi4]\na=1\n", []edit{set("all", "a", "2")}, "[pi4]\na=1\n[all]\na=2\n"},
		{"after an open filter", "[pi4]\na=1\n", []edit{set("cm4", "a", "2")}, "[pi4]\na=1\n[all]\n[cm4]\na=2\n[all]\n"},
		{"continues a section", "[cm4]\n# why\na=1\n\n[all]\nz=1\n", []edit{set("cm4", "b", "2")}, "[cm4]\n# why\na=1\nb=2\n\n[all]\nz=1\n"},
		{"an empty section", "[cm4]\n[all]\n", []edit{add("cm4", "b=2")}, "[cm4]\nb=2\n[all]\n"},
		{"two filters at once are another section", "[EDID=x]\n[pi4]\na=1\n[all]\n", []edit{set("pi4", "a", "2")},
			"[EDID=x]\n[pi4]\na=1\n[all]\n[pi4]\na=2\n[all]\n"},
		{"a filter with its own case", "[all]\n", []edit{set("EDID=VSC-TD2220", "hdmi_group", "2"), set("edid=vsc-td2220", "hdmi_mode", "82")},
			"[all]\n[EDID=VSC-TD2220]\nhdmi_group=2\nhdmi_mode=82\n[all]\n"},
		{"behind a wider section", "[cm4]\na=1\n[pi4]\na=2\n[all]\n", []edit{set("cm4", "a", "1")},
			"[cm4]\n[pi4]\na=2\n[all]\n[cm4]\na=1\n[all]\n"},
		{"behind what is for all", "[pi4]\na=1\n[all]\na=2\n", []edit{set("pi4", "a", "1")}, "[pi4]\n[all]\na=2\n[pi4]\na=1\n[all]\n"},
		{"an exception stays", "a=1\n[pi4]\na=2\n[cm4]\na=3\n", []edit{set("pi4", "a", "4"), set("all", "a", "5")}, "a=5\n[pi4]\na=4\n[cm4]\na=3\n"},
		{"a board not known here", "[pi9]\na=1\n[pi4]\na=2\n", []edit{set("pi9", "a", "3")}, "[pi9]\na=3\n[pi4]\na=2\n"},
		{"add once", "dtparam=audio=on\n", []edit{add("all", "dtparam=spi=on"), add("all", "dtparam=spi=on"), add("all", " dtparam=audio=on")},
			"dtparam=audio=on\ndtparam=spi=on\n"},
		{"a commented one is not there", "#dtparam=spi=on\n", []edit{add("all", "dtparam=spi=on")}, "#dtparam=spi=on\ndtparam=spi=on\n"},
		{"Windows", "a=1\r\n[pi4]\r\nb=2", []edit{set("all", "c", "3")}, "a=1\r\n[pi4]\r\nb=2\r\n[all]\r\nc=3\r\n"},
		{"comment out", "[cm5]\n dtoverlay=dwc2,dr_mode=host\ndtoverlay=dwc2-other\n[all]\ndtoverlay=dwc2\n#dtoverlay=dwc2\n",
			[]edit{commentOut("", 2, dwc2)},
			"[cm5]\n# dtoverlay=dwc2,dr_mode=host\ndtoverlay=dwc2-other\n[all]\n#dtoverlay=dwc2\n#dtoverlay=dwc2\n"},
		{"comment out in one section", "a=1\n[cm5]\na=1\n", []edit{commentOut("cm5", 1, func(l string) bool { return bootpart.IsSetting(l, "a") })},
			"a=1\n[cm5]\n#a=1\n"},
		{"remove", "a=1\nb=2\n#a=1\n[pi4]\na=2\n", []edit{func(t *testing.T, c *bootpart.Config) {
			if n := c.Remove("", func(l string) bool { return bootpart.IsSetting(l, "a") }); n != 2 {
				t.Errorf("%d removed", n)
			}
		}}, "b=2\n#a=1\n[pi4]\n"},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			c := bootpart.ParseConfig([]byte(tt.in))
			if string(c.Bytes()) != tt.in {
				t.Errorf("unchanged, it is %q", c.Bytes())
			}
			for _, e := range tt.edits {
				e(t, c)
			}
			if string(c.Bytes()) != tt.want {
				t.Errorf("%q\nwant %q", c.Bytes(), tt.want)
			}
		})
	}
}

func TestConfigRefuses(t *testing.T) {
	c := bootpart.ParseConfig([]byte(bookwormConfig))
	for _, tt := range []struct {
		summary string
		err     error
	}{
		{"setting what may be repeated", c.Set("all", "dtoverlay", "x")},
		{"no section", c.Set("", "a", "1")},
		{"a section of two", c.Set("[pi4][cm4]", "a", "1")},
		{"a value with a newline", c.Set("all", "a", "1\n[pi4]")},
		{"a filter as a line", c.Add("all", "[pi4]")},
		{"an empty line", c.Add("all", " ")},
		{"no key", c.Add("all", "=1")},
		{"a long line", c.Add("all", "a="+strings.Repeat("x", bootpart.ConfigLineMax-1))},
	} {
		if tt.err == nil {
			t.Errorf("%s was taken", tt.summary)
		}
	}
	if string(c.Bytes()) != bookwormConfig {
		t.Error("what failed changed the file")
	}
	if err := c.Add("all", "a="+strings.Repeat("x", bootpart.ConfigLineMax-2)); err != nil {
		t.Errorf("the longest line there may be: %v", err)
	}
}

func TestConfigGet(t *testing.T) {
	c := bootpart.ParseConfig([]byte(bookwormConfig + "include extra.txt\ninitramfs initrd.img followkernel\n[gpio4=1]\nx=1\n"))
	for _, tt := range []struct {
		section, key, want string
		has                bool
	}{
		{"all", "arm_64bit", "1", true},
		{"[cm4]", "otg_mode", "1", true},
		{"CM4", "otg_mode", "1", true},
		{"all", "otg_mode", "", false},
		{"cm4", "arm_64bit", "", false},
		{"cm5", "dtoverlay", "dwc2,dr_mode=host", true},
		{"all", "dtparam", "audio=on", true},
		{"all", "initramfs", "initrd.img followkernel", true},
		{"gpio4=1", "x", "1", true},
		{"all", "#dtparam", "", false},
	} {
		if got, has := c.Get(tt.section, tt.key); got != tt.want || has != tt.has {
			t.Errorf("[%s] %s: %q, %v; want %q, %v", tt.section, tt.key, got, has, tt.want, tt.has)
		}
	}
	if diff := cmp.Diff([]string{"extra.txt"}, c.Includes()); diff != "" {
		t.Errorf("includes (-want +got):\n%s", diff)
	}
}

func TestConfigEffective(t *testing.T) {
	c := bootpart.ParseConfig([]byte(`
a=all
[pi0]
a=zero
[pi0w]
a=zero-w
[pi3]
a=three
[pi3+]
a=three-plus
[pi4]
a=four
[cm4]
a=compute
[all]
b=all
[EDID=monitor]
b=monitor
[pi4]
b=monitor on four
[all]
[none]
b=nobody
[pi0]
b=still nobody
[all]
[0x1234]
b=one board
[gpio4=1]
b=pin
[all]
[HDMI:1]
b=port
[tryboot]
b=try
`))
	for _, tt := range []struct {
		summary string
		model   bootpart.Model
		want    string
	}{
		{"Zero", bootpart.ModelZero, "zero"},
		{"Zero W", bootpart.ModelZeroW, "zero-w"},
		{"Zero 2 W", bootpart.ModelZero2W, "zero"},
		{"2", bootpart.ModelPi2, "all"},
		{"3", bootpart.ModelPi3, "three"},
		{"3+", bootpart.ModelPi3Plus, "three-plus"},
		{"4", bootpart.ModelPi4, "four"},
		{"CM4", bootpart.ModelCM4, "compute"},
		{"5", bootpart.ModelPi5, "all"},
	} {
		if got, _ := c.Effective(tt.model, "a"); got != tt.want {
			t.Errorf("%s: a is %q, want %q", tt.summary, got, tt.want)
		}
		if got, _ := c.Effective(tt.model, "b"); got != "all" {
			t.Errorf("%s: b is %q, want that of all", tt.summary, got)
		}
	}
	c = bootpart.ParseConfig([]byte(bookwormConfig))
	if diff := cmp.Diff([]string{"vc4-kms-v3d", "dwc2,dr_mode=host"}, c.EffectiveAll(bootpart.ModelCM5, "dtoverlay")); diff != "" {
		t.Errorf("CM5's overlays (-want +got):\n%s", diff)
	}
	if _, has := c.Effective(bootpart.ModelPi4, "otg_mode"); has {
		t.Error("a Pi 4 reads [cm4]")
	}
}

func FuzzConfig(f *testing.F) {
	for _, s := range []string{bookwormConfig, "a=1", "[pi4]\r\na=1\r\n[all", "[EDID=x]\n[pi4]\n\n#\n", "[none]\n[all]\na=1\n[]\n"} {
		f.Add(s, "pi4", "a", "1")
		f.Add(s, "all", "gpu_mem", "16")
	}
	f.Fuzz(func(t *testing.T, in, section, key, value string) {
		c := bootpart.ParseConfig([]byte(in))
		if !bytes.Equal(c.Bytes(), []byte(in)) {
			t.Fatalf("unchanged %q is written as %q", in, c.Bytes())
		}
		if err := c.Set(section, key, value); err != nil {
			if string(c.Bytes()) != in {
				t.Fatalf("a Set that failed made %q of %q", c.Bytes(), in)
			}
			return
		}
		again := bootpart.ParseConfig(c.Bytes())
		got := again.Values(section, key)
		if len(got) != 1 || got[0] != strings.TrimSpace(value) {
			t.Fatalf("set [%s] %s=%q in %q: read back %q from %q", section, key, value, in, got, c.Bytes())
		}
		before := string(again.Bytes())
		if err := again.Set(section, key, value); err != nil || string(again.Bytes()) != before {
			t.Fatalf("set again, it became %q (%v)", again.Bytes(), err)
		}
	})
}
