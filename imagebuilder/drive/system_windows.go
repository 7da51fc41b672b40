package drive

import (
	"context"
	"fmt"

	"golang.org/x/sys/windows"
)

var here = pc{powershell{run}}

// pc is PowerShell's view, and files.
type pc struct{ powershell }

func (p pc) find(ctx context.Context, path string) (Drive, error) {
	if d, found, err := p.named(ctx, path); found || err != nil {
		return d, err
	}
	info, real, err := look(path)
	if err != nil {
		return Drive{}, err
	}
	if !info.Mode().IsRegular() {
		return Drive{}, &InputError{Path: path, Problem: shown(path) + " is no disk: `hatchery flash --list` shows the disks of this machine"}
	}
	name, err := windows.UTF16PtrFromString(real)
	if err != nil {
		return Drive{}, &InputError{Path: path, Problem: shown(path) + " is no path"}
	}
	const all = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(name, 0, all, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return Drive{}, fmt.Errorf("cannot see what %s is: %w", shown(path), err)
	}
	defer windows.CloseHandle(h)
	number, err := fileNumber(h)
	return Drive{Path: real, Kind: File, Size: info.Size(), Number: number}, err
}

func fileNumber(h windows.Handle) (string, error) {
	var info windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(h, &info); err != nil {
		return "", fmt.Errorf("cannot see which file it is: %w", err)
	}
	return fmt.Sprintf("%x file %x%08x", info.VolumeSerialNumber, info.FileIndexHigh, info.FileIndexLow), nil
}
