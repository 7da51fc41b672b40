package preload

import (
	"fmt"
	"slices"
	"strings"
)

// A Platform is what a container image is built for, in the words of the OCI
// image index specification.
type Platform struct{ OS, Architecture, Variant string }

// String is the platform as Docker writes it: linux/arm/v6.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// PlatformFor is what a target's container images have to be for: the model as
// in cluster.yaml, and Debian's name of the architecture of its base.
//
// The processor decides, not the base's ABI: a container brings its own libc,
// so a Zero with a soft-float base (armel) runs containers with hardware
// floating point. Where the model is unknown (auto), 32-bit images are for
// ARMv6, which every model runs.
func PlatformFor(model, architecture string) Platform {
	arm := func(variant string) Platform { return Platform{"linux", "arm", variant} }
	switch {
	case model == "zero" || model == "zero-w":
		return arm("v6")
	case model == "2":
		return arm("v7")
	case architecture == "arm64":
		return Platform{"linux", "arm64", "v8"}
	case model == "zero-2-w" || model == "3" || model == "4" || model == "5":
		return arm("v7")
	}
	return arm("v6")
}

// fits are the platforms whose programs p runs, the best first. A 32-bit
// processor runs what is for an older one; a 64-bit system takes 64-bit images
// only, since a kernel with pages of 16 KiB (the Pi 5's) runs no 32-bit ones.
func (p Platform) fits() []Platform {
	p = p.normal()
	if p.Architecture != "arm" {
		return []Platform{p}
	}
	order := []string{"v7", "v6", "v5"}
	i := slices.Index(order, p.Variant)
	if i < 0 {
		return []Platform{p}
	}
	var fits []Platform
	for _, variant := range order[i:] {
		fits = append(fits, Platform{p.OS, p.Architecture, variant})
	}
	return fits
}

// normal spells a platform in one way, as containerd does: ARM without a
// variant is ARMv7, 64-bit ARM is v8.
func (p Platform) normal() Platform {
	p = Platform{strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)}
	switch p.Architecture {
	case "aarch64", "arm64":
		p.Architecture = "arm64"
		if p.Variant == "" || p.Variant == "8" {
			p.Variant = "v8"
		}
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "arm":
		switch p.Variant {
		case "", "7":
			p.Variant = "v7"
		case "5", "6", "8":
			p.Variant = "v" + p.Variant
		}
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	}
	return p
}

// attestation says whether an index has an entry for what is no image: build
// records that BuildKit adds are for "unknown/unknown".
func (p Platform) attestation() bool { return p.OS == "unknown" || p.Architecture == "unknown" }

// A NoVariantError says that an image is not published for the processor that
// is to run it.
type NoVariantError struct {
	Ref    string
	Wanted Platform
	Has    []Platform // what it is published for
	// Single says that there is but this one image, whatever the processor.
	Single bool
}

func (e *NoVariantError) Error() string {
	var b strings.Builder
	fits := e.Wanted.fits()
	var has []string
	armv7 := false
	for _, p := range e.Has {
		has = append(has, p.String())
		armv7 = armv7 || p.normal() == Platform{"linux", "arm", "v7"}
	}
	slices.Sort(has)
	has = slices.Compact(has)
	switch {
	case len(has) == 0:
		fmt.Fprintf(&b, "no image for %s is in it, nor for any other processor", e.Wanted)
	case e.Single:
		fmt.Fprintf(&b, "it is one image, for %s, and not for %s", strings.Join(has, ", "), e.Wanted)
	default:
		fmt.Fprintf(&b, "it has no image for %s: it has %s", e.Wanted, strings.Join(has, ", "))
	}
	if armv7 && fits[0].Architecture == "arm" && !slices.Contains(fits, Platform{"linux", "arm", "v7"}) {
		b.WriteString(" (a program for ARMv7 ends on ARMv6 without a word)")
	}
	b.WriteString("; ")
	switch fits[0].Variant {
	case "v6":
		b.WriteString("take another tag, or another image that is published for linux/arm/v6 or linux/arm/v5 (on Docker Hub: arm32v6/NAME, arm32v5/NAME)")
	default:
		fmt.Fprintf(&b, "take another tag, or another image that is published for %s", e.Wanted)
	}
	if isPath(e.Ref) {
		fmt.Fprintf(&b, ", or save it again after docker pull --platform %s", e.Wanted)
	}
	return b.String()
}
