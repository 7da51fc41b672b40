//go:build !linux

package usbhost

import (
	"context"
	"errors"

	"hatchery/netboot/usbboot"
)

// KernelUevents is Linux's.
func KernelUevents(context.Context) (<-chan struct{}, error) { return nil, errors.ErrUnsupported }

// Open is Linux's.
func (h *Host) Open(Device) (usbboot.Transport, error) { return nil, errors.ErrUnsupported }
