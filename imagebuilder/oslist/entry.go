package oslist

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// An Entry is one image of the list.
type Entry struct {
	Name  string `json:"name"`  // the first segment of the URL's path
	Title string `json:"title"` // what the list calls it, for people

	URL    string `json:"url"`              // of the download: https, or http on this machine
	SHA256 string `json:"sha256,omitempty"` // of the download; "" where the list has none, as for Raspberry Pi OS
	Size   int64  `json:"size,omitempty"`   // of the download in bytes; 0 where the list has none

	ImageSHA256 string `json:"image_sha256,omitempty"` // of the image, unpacked; "" where the list has none
	ImageSize   int64  `json:"image_size,omitempty"`   // of the image in bytes; 0 where the list has none

	Released     string   `json:"released,omitempty"`     // 2025-11-24; "" where the list has none
	InitFormat   string   `json:"init_format,omitempty"`  // how Imager would configure it: systemd, cloudinit, cloudinit-rpi, none …
	Architecture string   `json:"architecture,omitempty"` // as Debian calls it: armhf, arm64; "" where nothing tells
	Devices      []string `json:"devices,omitempty"`      // tags of the boards that it is for, such as pi1-32bit
}

// Host is where the image is downloaded from, with the port if there is one.
func (e Entry) Host() string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// official says whether the image lies on Raspberry Pi's own servers.
func (e Entry) official() bool {
	host, _, _ := strings.Cut(e.Host(), ":")
	for _, domain := range []string{"raspberrypi.com", "raspberrypi.org"} {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return true
		}
	}
	return false
}

// An item is an entry as it is written.
type item struct {
	Name              string          `json:"name"`
	URL               string          `json:"url"`
	ExtractSize       int64           `json:"extract_size"`
	ExtractSHA256     string          `json:"extract_sha256"`
	ImageDownloadSize int64           `json:"image_download_size"`
	ImageDownloadSHA  string          `json:"image_download_sha256"`
	ReleaseDate       string          `json:"release_date"`
	InitFormat        string          `json:"init_format"`
	Architecture      string          `json:"architecture"`
	Devices           []string        `json:"devices"`
	Subitems          json.RawMessage `json:"subitems"`
}

var (
	namePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`) // what cluster.yaml takes for a name
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	datePattern   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
)

// maxImage is more than any image has, in bytes.
const maxImage = 1 << 40

// entry checks an item. Where nothing could name it, the entry has no name;
// where it cannot be used, the text says why.
func (it item) entry() (Entry, string) {
	u, err := url.Parse(it.URL)
	if err != nil || u.Hostname() == "" {
		return Entry{}, "" // internal://format, which Imager itself understands
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	if rest == "" || !namePattern.MatchString(name) {
		return Entry{}, "" // a file at the top, or what cluster.yaml could not name
	}
	e := Entry{
		Name: name, Title: printable(it.Name), URL: u.String(),
		SHA256: strings.ToLower(it.ImageDownloadSHA), Size: it.ImageDownloadSize,
		ImageSHA256: strings.ToLower(it.ExtractSHA256), ImageSize: it.ExtractSize,
		InitFormat: printable(it.InitFormat), Architecture: architecture(printable(it.Architecture), name),
	}
	if datePattern.MatchString(it.ReleaseDate) {
		e.Released = it.ReleaseDate
	}
	for _, tag := range it.Devices {
		e.Devices = append(e.Devices, printable(tag))
	}
	return e, e.fault(u)
}

// fault says why an entry cannot be used; "" where it can.
func (e Entry) fault(u *url.URL) string {
	switch {
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return "its URL is http, which can be tampered with on the way"
	case u.Scheme != "https" && u.Scheme != "http":
		return "its URL is not https"
	case u.User != nil || u.Fragment != "":
		return "its URL has an account or a # part"
	case !plain(e.URL):
		return "its URL is no plain one"
	case e.SHA256 != "" && !digestPattern.MatchString(e.SHA256):
		return "its image_download_sha256 is no SHA-256 digest"
	case e.ImageSHA256 != "" && !digestPattern.MatchString(e.ImageSHA256):
		return "its extract_sha256 is no SHA-256 digest"
	case e.SHA256 == "" && e.ImageSHA256 == "":
		return "it has no SHA-256 digest"
	case e.Size < 0 || e.Size > maxImage || e.ImageSize < 0 || e.ImageSize > maxImage:
		return "its sizes make no sense"
	}
	return ""
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// architecture is an image's architecture as Debian calls it. Most entries do
// not say it, but Raspberry Pi's names end in it.
func architecture(said, name string) string {
	switch {
	case said == "armv8":
		return "arm64"
	case said != "":
		return said
	}
	for _, arch := range []string{"armhf", "arm64"} {
		if strings.HasSuffix(name, "_"+arch) {
			return arch
		}
	}
	return ""
}

// maxText is how much of a text of the list is kept, in bytes.
const maxText = 200

// printable is a text of the list as it may be shown: without what would
// disturb a terminal, and not endless.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= maxText {
			break
		}
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// plain says whether a URL consists of printable ASCII and is not endless.
func plain(url string) bool {
	return len(url) <= 2000 && strings.IndexFunc(url, func(r rune) bool { return r <= ' ' || r >= 0x7f }) < 0
}
