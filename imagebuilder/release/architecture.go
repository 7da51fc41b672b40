package release

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"hatchery/internal/debarch"
)

// architecture is what the image is built for, by Debian's name: what dpkg
// says that it is for, else what a program of the image is. "" where neither
// is there.
func architecture(root Root) (string, error) {
	// dpkg's own comes first in its list of architectures, which is there once
	// another one was added.
	data, err := root.ReadFile("/var/lib/dpkg/arch")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	first, _, _ := strings.Cut(string(data), "\n")
	if name := strings.TrimSpace(first); debarch.IsName(name) {
		return name, nil
	}
	if data, err = root.ReadFile("/var/lib/dpkg/status"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if name := debarch.OfStatus(data); name != "" {
		return name, nil
	}
	for _, program := range []string{"/usr/bin/dpkg", "/usr/bin/dash", "/usr/lib/systemd/systemd"} {
		if data, err = root.ReadFile(program); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if name := debarch.OfProgram(data); name != "" {
			return name, nil
		}
	}
	return "", nil
}

// checkArchitecture reports an image that the target's model cannot run. On the
// wrong one a Pi shows nothing, or dies of the first program.
func (r *Release) checkArchitecture(e *editor) {
	what := "" // the image's programs
	switch r.Architecture {
	case "", "armel":
		return
	case "armhf":
		if r.armv6 {
			return
		}
		what = "ARMv7 (Debian's armhf; Raspbian's is ARMv6)"
	case "arm64":
		what = "64-bit ARM (arm64)"
	default:
		e.problem(true, fmt.Sprintf("the image is built for %s, which no Raspberry Pi is", r.Architecture), "use an image of Raspberry Pi OS, such as raspios_lite_armhf")
		return
	}
	slot := "slots: {p1: {base: {image: raspios_lite_armhf}}}"
	if e.target.Controller {
		slot = "controller: {base: {image: raspios_lite_armhf}}"
	}
	remedy := "use a Raspbian image, which every model runs; a target may have a base of its own, as in " + slot
	switch model := e.target.Model; {
	case model == "zero" || model == "zero-w":
		e.problem(true, fmt.Sprintf("the image is built for %s, but a model %s is ARMv6 and runs none of its programs", what, model), remedy)
	case model == "2" && r.Architecture == "arm64":
		// Its later revision could; model: auto is for who has that.
		e.problem(true, fmt.Sprintf("the image is built for %s, but a model 2 is 32-bit", what), remedy+", and a Pi 2 of revision 1.2, which is 64-bit, is model: auto")
	}
}
