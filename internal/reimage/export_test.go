package reimage

import "encoding/binary"

// WriteRaw writes a whole order of any content.
func WriteRaw(card Card, body []byte) error {
	raw := make([]byte, copySize)
	if len(body) > copySize-jsonAt {
		return errDamaged
	}
	copy(raw, orderMagic)
	raw[numberAt+7] = 1
	binary.BigEndian.PutUint32(raw[lengthAt:], uint32(len(body)))
	sum := sumOfCopy(raw[:sumAt], body)
	copy(raw[sumAt:], sum[:])
	copy(raw[jsonAt:], body)
	return writeHalf(card, 0, raw)
}
