package gadget_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/node/gadget"
)

// tree is what is written below a folder, as text. The kernel's rules for its
// order are judged where the kernel is: by the boot of TestGadget one floor up.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(name)
			target, _ = filepath.Rel(dir, target)
			fmt.Fprintf(&text, "%s -> %s\n", rel, target)
			return err
		}
		data, err := os.ReadFile(name)
		fmt.Fprintf(&text, "%s = %s", rel, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

const slot17 = `clusterctrl/UDC = 20980000.usb
clusterctrl/bDeviceClass = 0xEF
clusterctrl/bDeviceProtocol = 0x01
clusterctrl/bDeviceSubClass = 0x02
clusterctrl/bcdDevice = 0x0100
clusterctrl/bcdUSB = 0x0200
clusterctrl/configs/c.1/MaxPower = 250
clusterctrl/configs/c.1/acm.usb0 -> clusterctrl/functions/acm.usb0
clusterctrl/configs/c.1/ncm.usb0 -> clusterctrl/functions/ncm.usb0
clusterctrl/configs/c.1/strings/0x409/configuration = network and console
clusterctrl/functions/ncm.usb0/dev_addr = 00:22:82:ff:ff:11
clusterctrl/functions/ncm.usb0/host_addr = 00:22:82:ff:fe:11
clusterctrl/idProduct = 0x0021
clusterctrl/idVendor = 0x3171
clusterctrl/strings/0x409/manufacturer = hatchery
clusterctrl/strings/0x409/product = ClusterCTRL-usbboot
clusterctrl/strings/0x409/serialnumber = 17
`

func TestEnsure(t *testing.T) {
	dir := t.TempDir()
	places := gadget.Places{Configfs: filepath.Join(dir, "config"), UDCs: filepath.Join(dir, "udc")}
	gadgets := filepath.Join(places.Configfs, "usb_gadget")
	if _, _, err := gadget.Ensure(17, "ncm", gadget.Product, places); !errors.Is(err, gadget.ErrNoController) {
		t.Errorf("without a controller: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(places.UDCs, "20980000.usb"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := gadget.Ensure(17, "ncm", gadget.Product, places); err == nil || !strings.Contains(err.Error(), "libcomposite") {
		t.Errorf("without libcomposite: %v", err)
	}
	// An earlier attempt has left half of it. Here the folders of attributes are
	// not the kernel's, so they are made.
	for _, d := range []string{"clusterctrl/strings/0x409", "clusterctrl/functions/ncm.usb0", "clusterctrl/configs/c.1"} {
		if err := os.MkdirAll(filepath.Join(gadgets, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for made, turn := true, 0; turn < 2; turn++ {
		controller, did, err := gadget.Ensure(17, "ncm", gadget.Product, places)
		if err != nil || controller != "20980000.usb" || did != made {
			t.Errorf("%s, %v, %v", controller, did, err)
		}
		if diff := cmp.Diff(slot17, tree(t, gadgets)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		made = false // it is bound
	}
	if _, _, err := gadget.Ensure(17, "rndis", gadget.Product, places); err == nil {
		t.Error("a function that is none of ours is made")
	}
}
