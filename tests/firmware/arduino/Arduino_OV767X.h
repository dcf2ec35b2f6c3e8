// What image_source_camera.cpp uses of the camera library: declarations only.
#ifndef ARDUINO_OV767X_H_
#define ARDUINO_OV767X_H_

#define OV7670_VSYNC 8
#define OV7670_HREF A1
#define OV7670_PLK A0

enum { YUV422 = 0, OV7675 = 1, QQVGA = 4 };

struct OV767X {
  int begin(int resolution, int format, int fps, int camera);
  void end();
};
extern OV767X Camera;

#endif  // ARDUINO_OV767X_H_
