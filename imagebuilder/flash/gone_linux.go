package flash

import "syscall"

// goneNumbers are what Linux answers for a device that was there.
var goneNumbers = []syscall.Errno{syscall.ENODEV, syscall.ENXIO, syscall.ENOMEDIUM, syscall.ESHUTDOWN}
