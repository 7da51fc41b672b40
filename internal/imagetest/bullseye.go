package imagetest

import "testing"

// bullseye is Raspberry Pi OS 11 as of 2024-07-05, its last images but those of
// the legacy branch, which differ by package versions only: nothing in an
// image tells whether the archive calls its release stable, oldstable or
// oldoldstable (apt's lists are removed: export-image/02-set-sources).
//
// From RPi-Distro's repositories, branch bullseye: pi-gen (stage0 to stage2,
// export-image), raspberrypi-sys-mods (99acc23), userconf-pi (c2892a5),
// raspi-config (f2fdc18), raspberrypi-net-mods (8021bb1).
var bullseye = release{
	codename: "bullseye",
	date:     "2024-07-04",
	align:    4 << 20,
	// -s 4 since 2022-05-04 (pi-gen 00da8517); see WithClusters.
	clusters: 1,
	label:    "bootfs",
	// metadata_csum since 2022-05-04; ^orphan_file since 14895206, so that the
	// builder's newer mke2fs changes nothing.
	features: features("metadata_csum"),
	// stage2/02-net-tweaks/01-run.sh: Wi-Fi with 5 GHz is off until a country is
	// set.
	rfkill: map[string]string{
		"platform-3f300000.mmcnr:wlan": "1\n",
		"platform-fe300000.mmcnr:wlan": "1\n",
	},
}

// Bullseye makes a miniature of Raspberry Pi OS 11 and gives its path: a
// sparse file of the test's own, which it may write to.
func Bullseye(t testing.TB, options ...Option) string {
	t.Helper()
	return Release(t, "bullseye", options...)
}

// WithInitResize makes bullseye that of 2022-04-04: grown by raspi-config's
// init_resize.sh, without checksums in ext4, without NetworkManager, and with
// another label and mount option of the boot partition (pi-gen 226b479f).
func WithInitResize() Option {
	return Option{early: func(r *recipe) {
		r.release.date = "2022-04-04"
		r.release.label = "boot"
		r.release.features = features()
		r.extra = append(r.extra, "bullseye-2022")
	}}
}
