package diskimage

import (
	"io"
	"strings"

	"hatchery/internal/debarch"
	"hatchery/internal/osrelease"
)

// A Release is which operating system an image holds, as far as it says.
type Release struct {
	ID           string // raspbian, debian, ubuntu, alpine
	Codename     string // bookworm
	Name         string // "Raspbian GNU/Linux 12 (bookworm)"
	Version      string // "12"
	Architecture string // as the distribution calls it: armhf, arm64
}

// Release tells by os-release and the package manager's own record which
// operating system the image holds. It is empty where there is none.
func (im *Image) Release() Release {
	if im.release != nil {
		return *im.release
	}
	im.release = &Release{}
	t, err := im.assemble()
	if err != nil {
		return *im.release
	}
	data, err := ReadFile(t, "/etc/os-release", mostConfig)
	if absent(err) {
		data, err = ReadFile(t, "/usr/lib/os-release", mostConfig)
	}
	if err == nil {
		values := osrelease.Parse(data)
		*im.release = Release{ID: values["ID"], Codename: values["VERSION_CODENAME"], Name: values["PRETTY_NAME"], Version: values["VERSION_ID"]}
	}
	im.release.Architecture = architecture(t)
	return *im.release
}

// architecture is that of the packages: dpkg's or apk's own record, else what
// the shell is made for.
func architecture(t *tree) string {
	if status, err := ReadFile(t, "/var/lib/dpkg/status", mostStatus); err == nil {
		if a := debarch.OfStatus(status); a != "" {
			return a
		}
	}
	if data, err := ReadFile(t, "/etc/apk/arch", mostConfig); err == nil {
		return strings.TrimSpace(string(data))
	}
	for _, name := range []string{"/bin/sh", "/usr/bin/env", "/sbin/init"} {
		if a := elfArchitecture(t, name); a != "" {
			return a
		}
	}
	return ""
}

// mostStatus bounds dpkg's status file: a desktop's has 3 MB.
const mostStatus = 64 << 20

// elfArchitecture tells what a program is made for.
func elfArchitecture(t *tree, name string) string {
	f, err := t.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, debarch.HeaderSize)
	if _, err := io.ReadFull(f, head); err != nil {
		return ""
	}
	return debarch.OfProgram(head)
}
