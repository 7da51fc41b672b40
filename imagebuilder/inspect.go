package imagebuilder

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hatchery/imagebuilder/diskimage"
)

// An Inspection is what an image is found to be.
type Inspection struct {
	Image      string               `json:"image"`
	Size       int64                `json:"size"` // bytes, of the raw image
	Table      InspectedTable       `json:"table"`
	Partitions []InspectedPartition `json:"partitions"`
	Mounts     []InspectedMount     `json:"mounts,omitempty"` // what the image's tree is put together of
	BootPath   string               `json:"boot_path,omitempty"`
	Release    *InspectedRelease    `json:"release,omitempty"`
	Kernels    []string             `json:"kernels,omitempty"` // versions that there are modules for
	FirstBoot  *FirstBoot           `json:"first_boot,omitempty"`
	Hatchery   *InspectedNode       `json:"hatchery,omitempty"` // nil: hatchery did not make the image
	Private    []InspectedPrivate   `json:"private"`            // files that nobody else may see
	Warnings   []string             `json:"warnings"`
}

// An InspectedTable is the image's partition table.
type InspectedTable struct {
	Kind    string `json:"kind"` // mbr, gpt; "" for none
	DiskID  string `json:"disk_id,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// An InspectedPartition is a partition and its file system. Numbers are in
// bytes.
type InspectedPartition struct {
	Number     int      `json:"number"` // 0: the whole image
	Start      int64    `json:"start"`
	Size       int64    `json:"size"`
	Type       string   `json:"type,omitempty"`
	TypeName   string   `json:"type_name,omitempty"`
	Label      string   `json:"label,omitempty"`
	UUID       string   `json:"uuid,omitempty"`
	Bootable   bool     `json:"bootable,omitempty"`
	FileSystem string   `json:"file_system,omitempty"`
	FSLabel    string   `json:"file_system_label,omitempty"`
	FSUUID     string   `json:"file_system_uuid,omitempty"`
	Features   []string `json:"features,omitempty"`
	Readable   bool     `json:"readable"`
	Used       int64    `json:"used,omitempty"`
	Free       int64    `json:"free,omitempty"`
	Problem    string   `json:"problem,omitempty"`
}

// An InspectedMount says where a partition lies in the image's tree.
type InspectedMount struct {
	Path      string `json:"path"`
	Partition int    `json:"partition"`
}

// An InspectedRelease is the operating system, as it calls itself.
type InspectedRelease struct {
	ID           string `json:"id,omitempty"`
	Codename     string `json:"codename,omitempty"`
	Version      string `json:"version,omitempty"`
	Name         string `json:"name,omitempty"`
	Architecture string `json:"architecture,omitempty"`
}

// FirstBoot is what the image does to itself when it boots next.
type FirstBoot struct {
	// MachineID is what /etc/machine-id says of it: "set", "uninitialized"
	// (systemd takes the next boot for the first), "empty" or "missing".
	MachineID string `json:"machine_id"`
	// Steps are the machinery that waits, in words.
	Steps []string `json:"steps"`
}

// An InspectedNode is what hatchery put into the image.
type InspectedNode struct {
	Cluster  string `json:"cluster"`
	Name     string `json:"name"` // controller, p1, …
	Role     string `json:"role,omitempty"`
	Slot     int    `json:"slot"`
	Hostname string `json:"hostname"`
	Model    string `json:"model,omitempty"`
	Root     string `json:"root,omitempty"`
	Address  string `json:"address,omitempty"`
	// Epoch is every timestamp of the build; files that bear it are hatchery's.
	Epoch       time.Time             `json:"epoch"`
	Certificate *InspectedCertificate `json:"certificate,omitempty"`
	HostKey     string                `json:"host_key,omitempty"` // SHA256:…, as ssh-keygen -l prints it
	Files       []InspectedFile       `json:"files"`
}

// An InspectedCertificate is the public part of a slot's identity.
type InspectedCertificate struct {
	Cluster    string    `json:"cluster"`
	Slot       int       `json:"slot"`
	Generation int       `json:"generation"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	CA         string    `json:"ca,omitempty"`      // SHA-256 fingerprint of the cluster CA's certificate
	Valid      bool      `json:"valid"`             // signed by that CA, for this slot and key
	Problem    string    `json:"problem,omitempty"` // why it is not
}

// An InspectedFile is a file that a build of hatchery put there or rewrote.
type InspectedFile struct {
	Path    string `json:"path"`
	Package string `json:"package,omitempty"` // the Debian package that it came with at first
}

// An InspectedPrivate is a file that others must not see.
type InspectedPrivate struct {
	Path string `json:"path"`
	What string `json:"what"`
}

// mostInspected bounds the files of an image that are read whole to tell what
// it is.
const mostInspected = 1 << 20

// Inspect says what an image is, as far as it tells. What is wrong with the
// image is in the result; an error is the context's, or that of reading the
// image's file.
func Inspect(ctx context.Context, im *diskimage.Image) (*Inspection, error) {
	in := &Inspection{Size: im.Size(), Private: []InspectedPrivate{}, Warnings: []string{}}
	table := im.Table()
	in.Table = InspectedTable{table.Kind, table.DiskID, table.Problem}
	if table.Problem != "" {
		in.warn("partition table: %s", table.Problem)
	}
	for _, p := range im.Partitions() {
		in.Partitions = append(in.Partitions, InspectedPartition{
			Number: p.Number, Start: p.Start, Size: p.Size, Type: p.Type, TypeName: p.TypeName, Label: p.Label, UUID: p.UUID,
			Bootable: p.Bootable, FileSystem: p.FileSystem, FSLabel: p.FSLabel, FSUUID: p.FSUUID, Features: p.Features,
			Readable: p.Readable, Used: p.Used, Free: p.Free, Problem: p.Problem,
		})
		if p.Problem != "" {
			in.warn("partition %d: %s", p.Number, p.Problem)
		}
	}
	for _, m := range im.Mounts() {
		in.Mounts = append(in.Mounts, InspectedMount{m.Path, m.Partition})
	}
	in.BootPath = im.BootPath()
	tree, err := im.Tree()
	if err != nil {
		in.warn("%v", err)
	} else if err := in.system(ctx, im, tree); err != nil {
		return nil, err
	}
	if err := in.private(ctx, im, tree); err != nil {
		return nil, err
	}
	return in, nil
}

func (in *Inspection) warn(format string, args ...any) {
	in.Warnings = append(in.Warnings, fmt.Sprintf(format, args...))
}

// system looks at the operating system.
func (in *Inspection) system(ctx context.Context, im *diskimage.Image, tree diskimage.Tree) error {
	if r := im.Release(); r != (diskimage.Release{}) {
		in.Release = &InspectedRelease{r.ID, r.Codename, r.Version, r.Name, r.Architecture}
	}
	for _, dir := range []string{"/usr/lib/modules", "/lib/modules"} {
		nodes, err := tree.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, n := range nodes {
			if n.IsDir() {
				in.Kernels = append(in.Kernels, path.Base(n.Path))
			}
		}
		break
	}
	if in.Release != nil {
		in.FirstBoot = firstBoot(tree, in.BootPath)
	}
	if _, err := tree.Lstat(nodeFile); err == nil {
		if in.Hatchery, err = in.node(ctx, tree); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// private looks for private files: in the tree, and in partitions that are
// not part of it.
func (in *Inspection) private(ctx context.Context, im *diskimage.Image, tree diskimage.Tree) error {
	laid := map[int]bool{}
	if tree != nil {
		if err := in.privateIn(ctx, tree, ""); err != nil {
			return err
		}
		for _, m := range im.Mounts() {
			laid[m.Partition] = true
		}
	}
	for _, p := range im.Partitions() {
		if laid[p.Number] || !p.Readable {
			continue
		}
		other, err := im.Partition(p.Number)
		if err != nil {
			continue
		}
		if err := in.privateIn(ctx, other, fmt.Sprintf("%d:", p.Number)); err != nil {
			return err
		}
	}
	return nil
}

func (in *Inspection) privateIn(ctx context.Context, tree diskimage.Tree, prefix string) error {
	found, err := diskimage.FindPrivate(ctx, tree)
	if err != nil {
		return err
	}
	for _, f := range found {
		in.Private = append(in.Private, InspectedPrivate{prefix + f.Path, f.What})
	}
	return nil
}

const nodeFile = "/etc/hatchery/node.json"

// ModelOf is the model that an image of hatchery's was built for; "" where it is
// none.
func ModelOf(tree diskimage.Tree) string {
	var node struct{ Model string }
	data, err := diskimage.ReadFile(tree, nodeFile, mostInspected)
	if err != nil || json.Unmarshal(data, &node) != nil {
		return ""
	}
	return node.Model
}

// node reads what hatchery put into the image.
func (in *Inspection) node(ctx context.Context, tree diskimage.Tree) (*InspectedNode, error) {
	node := &InspectedNode{Files: []InspectedFile{}}
	data, err := diskimage.ReadFile(tree, nodeFile, mostInspected)
	if err == nil {
		err = json.Unmarshal(data, &struct {
			Cluster  *string `json:"cluster"`
			Name     *string `json:"name"`
			Role     *string `json:"role"`
			Slot     *int    `json:"slot"`
			Hostname *string `json:"hostname"`
			Model    *string `json:"model"`
			Root     *string `json:"root"`
			Address  *string `json:"address"`
		}{&node.Cluster, &node.Name, &node.Role, &node.Slot, &node.Hostname, &node.Model, &node.Root, &node.Address})
	}
	if err != nil {
		in.warn("%s cannot be read: %v", nodeFile, err)
		return nil, nil
	}
	if name, err := diskimage.ReadFile(tree, "/etc/hostname", mostInspected); err == nil {
		if got := strings.TrimSpace(string(name)); got != node.Hostname {
			in.warn("/etc/hostname says %q, and %s says %q", got, nodeFile, node.Hostname)
		}
	}
	node.Certificate = inspectCertificate(tree, node)
	if c := node.Certificate; c == nil {
		in.warn("the slot has no certificate in /etc/hatchery/identity")
	} else if !c.Valid {
		in.warn("the slot's certificate is of no use: %s", c.Problem)
	}
	if line, err := diskimage.ReadFile(tree, "/etc/ssh/ssh_host_ed25519_key.pub", mostInspected); err == nil {
		if key, _, _, _, err := ssh.ParseAuthorizedKey(line); err == nil {
			node.HostKey = ssh.FingerprintSHA256(key)
		}
	}
	if info, err := diskimage.Stat(tree, nodeFile); err == nil {
		node.Epoch = info.ModTime
		if node.Files, err = builtFiles(ctx, tree, info.ModTime); err != nil {
			return nil, err
		}
	}
	return node, nil
}

const identityDir = "/etc/hatchery/identity"

// inspectCertificate judges the slot's certificate as the controller would. It
// gives nil where there is none.
func inspectCertificate(tree diskimage.Tree, node *InspectedNode) *InspectedCertificate {
	cert, err := readCertificate(tree, identityDir+"/certificate.pem")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &InspectedCertificate{Problem: err.Error()}
	}
	c := &InspectedCertificate{NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}
	for _, uri := range cert.URIs {
		if m := targetURI.FindStringSubmatch(uri.String()); m != nil {
			c.Cluster = m[1]
			c.Slot, _ = strconv.Atoi(m[2])
			c.Generation, _ = strconv.Atoi(m[3])
		}
	}
	authority, err := readCertificate(tree, identityDir+"/ca.pem")
	if err != nil {
		c.Problem = fmt.Sprintf("the cluster CA's certificate: %v", err)
		return c
	}
	sum := sha256.Sum256(authority.Raw)
	c.CA = hex.EncodeToString(sum[:])
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	_, err = cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	switch {
	case err != nil:
		c.Problem = err.Error()
	case c.Generation == 0:
		c.Problem = "it names no slot and generation"
	case c.Cluster != node.Cluster || c.Slot != node.Slot:
		c.Problem = fmt.Sprintf("it is that of slot %d of the cluster %q", c.Slot, c.Cluster)
	default:
		c.Problem = keyProblem(tree, cert)
	}
	c.Valid = c.Problem == ""
	return c
}

// targetURI is the form of identity.TargetURI.
var targetURI = regexp.MustCompile(`^hatchery://([^/]+)/slot/(\d{1,3})/generation/(\d{1,9})$`)

// keyProblem says why the private key beside a certificate is not its key.
func keyProblem(tree diskimage.Tree, cert *x509.Certificate) string {
	data, err := diskimage.ReadFile(tree, identityDir+"/key.pem", mostInspected)
	if err != nil {
		return fmt.Sprintf("its key: %v", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return "its key is no PEM file"
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "its key cannot be read"
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return "its key is none that signs"
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return "the key beside it is another's"
	}
	return ""
}

func readCertificate(tree diskimage.Tree, name string) (*x509.Certificate, error) {
	data, err := diskimage.ReadFile(tree, name, mostInspected)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s holds no certificate that can be read", name)
	}
	return cert, nil
}

// builtFiles lists the files that bear a build's time: every timestamp that
// hatchery writes is the cluster's epoch. FAT keeps every other second.
func builtFiles(ctx context.Context, tree diskimage.Tree, epoch time.Time) ([]InspectedFile, error) {
	files := []InspectedFile{}
	err := tree.Walk("/", func(n diskimage.Node) error {
		if n.Mode.IsRegular() || n.Mode&fs.ModeSymlink != 0 {
			if d := epoch.Sub(n.ModTime); d >= 0 && d < 2*time.Second && (d == 0 || n.ModTime.Unix()%2 == 0 && n.ModTime.Nanosecond() == 0) {
				files = append(files, InspectedFile{Path: n.Path})
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return files, ownedFiles(ctx, tree, files)
}

// ownedFiles finds the package that each file came with, by dpkg's lists.
func ownedFiles(ctx context.Context, tree diskimage.Tree, files []InspectedFile) error {
	const info = "/var/lib/dpkg/info"
	nodes, err := tree.ReadDir(info)
	if err != nil {
		return nil // no Debian
	}
	place := map[string]int{}
	for i, f := range files {
		place[f.Path] = i
	}
	for _, n := range nodes {
		name, ok := strings.CutSuffix(path.Base(n.Path), ".list")
		if !ok || !n.Mode.IsRegular() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		list, err := diskimage.ReadFile(tree, n.Path, 16<<20)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(list)) {
			if i, ok := place[strings.TrimSuffix(line, "\n")]; ok {
				files[i].Package, _, _ = strings.Cut(name, ":")
			}
		}
	}
	return nil
}

// firstBootUnits are the stock units that change the system when it boots for
// the first time.
var firstBootUnits = []struct{ unit, does string }{
	{"regenerate_ssh_host_keys.service", "makes new SSH host keys"},
	{"userconfig.service", "asks for a user, or takes it from userconf.txt"},
	{"rpi-resize.service", "grows the root file system"},
	{"resize2fs_once.service", "grows the root file system"},
	{"cloud-init-local.service", "runs cloud-init, with the seed on the boot partition"},
	{"cloud-init.service", "runs cloud-init, with the seed on the boot partition"},
	{"cloud-init-main.service", "runs cloud-init, with the seed on the boot partition"},
}

// firstBootFiles are files on the boot partition that a stock image acts on.
var firstBootFiles = []struct{ name, does string }{
	{"ssh", "turns the SSH server on"},
	{"ssh.txt", "turns the SSH server on"},
	{"userconf", "makes the user that it names"},
	{"userconf.txt", "makes the user that it names"},
	{"wpa_supplicant.conf", "becomes the Wi-Fi's configuration"},
	{"firstrun.sh", "is a script for the first boot"},
	{"custom.toml", "configures the system"},
}

// firstBoot says what a stock Raspberry Pi OS will do to itself at its next
// boot.
func firstBoot(tree diskimage.Tree, bootPath string) *FirstBoot {
	f := &FirstBoot{MachineID: "missing", Steps: []string{}}
	if id, err := diskimage.ReadFile(tree, "/etc/machine-id", mostInspected); err == nil {
		switch strings.TrimSpace(string(id)) {
		case "":
			f.MachineID = "empty"
		case "uninitialized":
			f.MachineID = "uninitialized"
		default:
			f.MachineID = "set"
		}
	}
	step := func(format string, args ...any) { f.Steps = append(f.Steps, fmt.Sprintf(format, args...)) }
	if bootPath != "" {
		line, _ := diskimage.ReadFile(tree, bootPath+"/cmdline.txt", mostInspected)
		for word := range strings.FieldsSeq(string(line)) {
			key, value, _ := strings.Cut(word, "=")
			switch {
			case word == "resize":
				step("cmdline.txt: resize: grows the root partition")
			case key == "init" && value != "/sbin/init" && value != "/usr/sbin/init" && value != "/lib/systemd/systemd":
				step("cmdline.txt: %s runs before the system", word)
			case key == "systemd.run":
				step("cmdline.txt: %s runs once", word)
			}
		}
		for _, file := range firstBootFiles {
			if n, err := diskimage.Stat(tree, bootPath+"/"+file.name); err == nil && n.Mode.IsRegular() {
				step("%s/%s %s", bootPath, file.name, file.does)
			}
		}
	}
	const system = "/etc/systemd/system"
	wanted := map[string]bool{}
	dirs, _ := tree.ReadDir(system)
	for _, dir := range dirs {
		if !strings.HasSuffix(dir.Path, ".wants") && !strings.HasSuffix(dir.Path, ".requires") {
			continue
		}
		units, _ := tree.ReadDir(dir.Path)
		for _, u := range units {
			wanted[path.Base(u.Path)] = true
		}
	}
	for _, u := range firstBootUnits {
		if !wanted[u.unit] {
			continue
		}
		if n, err := tree.Lstat(system + "/" + u.unit); err == nil && n.Target == "/dev/null" {
			continue // masked
		}
		if _, err := tree.Lstat("/etc/cloud/cloud-init.disabled"); err == nil && strings.HasPrefix(u.unit, "cloud-init") {
			continue
		}
		step("%s %s", u.unit, u.does)
	}
	slices.Sort(f.Steps)
	f.Steps = slices.Compact(f.Steps)
	return f
}
