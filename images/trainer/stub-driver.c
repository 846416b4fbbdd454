/* Stub of libcuda.so.1 and libnvidia-ml.so.1 that reports one device. TensorFlow counts devices and loads its CUDA
 * libraries before it creates a context, so the stub suffices to verify that the image registers a GPU. */
#include <stddef.h>
#include <string.h>

int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDriverGetVersion(int *version) { *version = 12090; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal != 0; }
int cuDeviceGetName(char *name, int size, int device) { (void)device; strncpy(name, "stub", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = (size_t)16 << 30; return 0; }
int cuDeviceGetPCIBusId(char *id, int size, int device) { (void)device; strncpy(id, "0000:00:00.0", size); return 0; }
/* Attributes 75 and 76 are the compute capability; 9.0 is Hopper. */
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1;
    return 0;
}

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
