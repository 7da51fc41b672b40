package hat

import (
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestABI: structures and numbers are those of the kernel's headers
// linux/gpio.h and linux/i2c-dev.h, as a C compiler has them.
func TestABI(t *testing.T) {
	word := uintptr(strconv.IntSize / 8)
	for _, test := range []struct {
		what      string
		got, want uintptr
	}{
		{"struct gpiochip_info", unsafe.Sizeof(unix.GPIOChipInfo{}), 68},
		{"struct gpio_v2_line_values", unsafe.Sizeof(unix.GPIOV2LineValues{}), 16},
		{"struct gpio_v2_line_attribute", unsafe.Sizeof(unix.GPIOV2LineAttribute{}), 16},
		{"struct gpio_v2_line_config_attribute", unsafe.Sizeof(unix.GPIOV2LineConfigAttribute{}), 24},
		{"struct gpio_v2_line_config", unsafe.Sizeof(unix.GPIOV2LineConfig{}), 272},
		{"struct gpio_v2_line_request", unsafe.Sizeof(unix.GPIOV2LineRequest{}), 592},
		{"its fd", unsafe.Offsetof(unix.GPIOV2LineRequest{}.Fd), 588},
		{"its configuration", unsafe.Offsetof(unix.GPIOV2LineRequest{}.Config), 288},
		{"struct gpio_v2_line_info", unsafe.Sizeof(unix.GPIOV2LineInfo{}), 256},
		{"GPIO_GET_CHIPINFO_IOCTL", unix.GPIO_GET_CHIPINFO_IOCTL, 0x8044b401},
		{"GPIO_V2_GET_LINE_IOCTL", unix.GPIO_V2_GET_LINE_IOCTL, 0xc250b407},
		{"GPIO_V2_LINE_GET_VALUES_IOCTL", unix.GPIO_V2_LINE_GET_VALUES_IOCTL, 0xc010b40e},
		{"GPIO_V2_LINE_SET_CONFIG_IOCTL", lineSetConfig, 3<<30 | unsafe.Sizeof(unix.GPIOV2LineConfig{})<<16 | 0xb4<<8 | 0x0d},
		{"struct i2c_smbus_ioctl_data", unsafe.Sizeof(smbusArgs{}), 8 + word},
		{"its data", unsafe.Offsetof(smbusArgs{}.data), 8},
		{"its size", unsafe.Offsetof(smbusArgs{}.size), 4},
		{"union i2c_smbus_data", unsafe.Sizeof(smbusData{}), 34},
	} {
		if test.got != test.want {
			t.Errorf("%s: %d, want %d", test.what, test.got, test.want)
		}
	}
}
