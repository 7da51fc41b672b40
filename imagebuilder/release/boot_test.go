package release_test

import (
	"slices"
	"strings"
	"testing"

	"hatchery/imagebuilder/release"
	"hatchery/internal/bootpart"
)

// stockConfig has the sections of bookworm's config.txt.
const stockConfig = `#dtparam=i2c_arm=on
dtparam=audio=on
dtoverlay=vc4-kms-v3d
[cm4]
otg_mode=1
[cm5]
dtoverlay=dwc2,dr_mode=host
[all]
`

// TestConfigTakesEffect asks what each board ends up with.
func TestConfigTakesEffect(t *testing.T) {
	const softI2C = "i2c-gpio,bus=1,i2c_gpio_sda=2,i2c_gpio_scl=3"
	for _, test := range []struct {
		summary  string
		target   release.Target
		model    bootpart.Model
		overlays string
		params   string
		otg      string
	}{
		{"node on a Zero", target(), bootpart.ModelZero, "dwc2,dr_mode=peripheral vc4-kms-v3d", "audio=on", ""},
		{"node on a Zero 2 W", target(), bootpart.ModelZero2W, "dwc2,dr_mode=peripheral vc4-kms-v3d", "audio=on", ""},
		{"controller on a Zero", target(controller), bootpart.ModelZero, "dwc2,dr_mode=host " + softI2C + " vc4-kms-v3d", "audio=on", ""},
		{"controller on a Pi 3", target(controller), bootpart.ModelPi3, "dwc2,dr_mode=host " + softI2C + " vc4-kms-v3d", "audio=on", ""},
		{"controller on a Pi 4", target(controller), bootpart.ModelPi4, "dwc2,dr_mode=host " + softI2C + " vc4-kms-v3d", "audio=on", "1"},
		{"controller on a Compute Module 4", target(controller), bootpart.ModelCM4, "dwc2,dr_mode=host " + softI2C + " vc4-kms-v3d", "audio=on", "0"},
		{"controller on a Pi 5", target(controller), bootpart.ModelPi5, "dwc2,dr_mode=host vc4-kms-v3d", "audio=on i2c_arm=on", ""},
		{"controller on a Compute Module 5", target(controller), bootpart.ModelCM5, "dwc2,dr_mode=host vc4-kms-v3d", "audio=on i2c_arm=on", ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			for _, text := range []string{stockConfig, strings.Replace(stockConfig, "[all]\n", "[all]\ndtoverlay=dwc2\ngpu_mem=64\n", 1)} {
				config := bootpart.ParseConfig([]byte(text))
				for _, e := range edits(t, bookworm(), test.target).Config {
					var err error
					switch e.Op {
					case release.SetKey:
						err = config.Set(e.Section, e.Key, e.Value)
					case release.AddLine:
						err = config.Add(e.Section, e.Line)
					case release.RemovePrefix:
						config.Remove(e.Section, func(line string) bool { return strings.HasPrefix(line, e.Line) })
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				loaded := config.EffectiveAll(test.model, "dtoverlay")
				slices.Sort(loaded) // each is of other hardware
				if got := strings.Join(loaded, " "); got != test.overlays {
					t.Errorf("overlays %q, want %q\n%s", got, test.overlays, config.Bytes())
				}
				if got := strings.Join(config.EffectiveAll(test.model, "dtparam"), " "); got != test.params {
					t.Errorf("parameters %q, want %q", got, test.params)
				}
				if got, _ := config.Effective(test.model, "otg_mode"); got != test.otg {
					t.Errorf("otg_mode %q, want %q\n%s", got, test.otg, config.Bytes())
				}
				if got, _ := config.Effective(test.model, "gpu_mem"); got != "16" {
					t.Errorf("gpu_mem %q", got)
				}
			}
		})
	}
}

// TestConfigOfTheUser: a filter among the lines of boot.config says which
// boards those after it are for.
func TestConfigOfTheUser(t *testing.T) {
	var got []release.ConfigEdit
	for _, e := range edits(t, bookworm(), target(func(t *release.Target) {
		t.Config = []string{"a=1", "[pi4]", "b=2", "[cm4]", "c=3", "[all]", "d=4"}
	})).Config {
		if e.Op == release.AddLine && !strings.HasPrefix(e.Line, "dtoverlay=dwc2") {
			got = append(got, e)
		}
	}
	want := []release.ConfigEdit{
		{Section: "all", Op: release.AddLine, Line: "a=1"},
		{Section: "pi4", Op: release.AddLine, Line: "b=2"},
		{Section: "cm4", Op: release.AddLine, Line: "c=3"},
		{Section: "all", Op: release.AddLine, Line: "d=4"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
