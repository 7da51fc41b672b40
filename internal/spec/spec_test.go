package spec_test

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"path/filepath"
	"hatchery/internal/spec"
)

var update = flag.Bool("update", false, "write the goldens anew")
func TestReference(t *testing.T) {
	var b bytes.Buffer
	if err := spec.WriteReference(&b); err != nil { t.Fatal(err) }
	const page = "../../docs/cluster-yaml.md"
	if *update {
		os.MkdirAll("../../docs", 0o755)
		os.WriteFile(page, b.Bytes(), 0o644)
	}
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "x.img"), nil, 0o644)
	tpl := spec.Template(spec.TemplateData{Image: "./x.img", Keys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHdcFRD5lPOCkLO6hBBvlMVOyGiCCN1POOtOwHOHAMoJ me"}})
	t.Logf("%s", tpl)
	c, err := spec.Parse(filepath.Join(dir,"cluster.yaml"), tpl)
	t.Log(c, err)
}
