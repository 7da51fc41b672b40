package flash

import "golang.org/x/sys/windows"

// goneNumbers are what Windows answers for a device that was there.
var goneNumbers = []windows.Errno{
	windows.ERROR_NOT_READY, windows.ERROR_DEVICE_NOT_CONNECTED, windows.ERROR_NO_MEDIA_IN_DRIVE,
	windows.ERROR_NO_SUCH_DEVICE, windows.ERROR_DEV_NOT_EXIST, windows.ERROR_MEDIA_CHANGED,
}
