package flash_test

import "golang.org/x/sys/windows"

const errGone = windows.ERROR_DEVICE_NOT_CONNECTED
