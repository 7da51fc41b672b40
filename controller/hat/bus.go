package hat

// Bus is the expander on its I²C bus: single bytes of registers.
type Bus interface {
	ReadByteData(register byte) (byte, error)
	WriteByteData(register, value byte) error
	Close() error
}

// Lines are the GPIO lines of the board, by their BCM numbers. Set makes a
// line an output.
type Lines interface {
	Get(line int) (bool, error)
	Set(line int, high bool) error
	Close() error
}

// Registers of the expander.
const (
	RegIn     = 0x00 // the pins' levels
	RegOut    = 0x01 // the levels of pins that are outputs
	RegDir    = 0x03 // 1: an input, as all are when the HAT gets power
	RegPullUp = 0x04 // of an XRA1200P; a PCA9554 has no such register
)

// Address is the expander's on bus 1.
const Address = 0x20

// pin is a bit of the expander's registers.
type pin uint

const (
	pinSlot1 pin = 0 // to 3: power of p1 to p4
	pinLED   pin = 4 // v2 only
	pinHub   pin = 5
	pinAlert pin = 6
	pinWP    pin = 7 // the EEPROM's write protection
)

func (p pin) mask() byte { return 1 << p }

// lineOf are the GPIO lines of a v1.
var lineOf = map[pin]int{pinSlot1: 6, pinSlot1 + 1: 13, pinSlot1 + 2: 19, pinSlot1 + 3: 26, pinAlert: 5}
