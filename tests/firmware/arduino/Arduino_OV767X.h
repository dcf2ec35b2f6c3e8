// What image_source_camera.cpp uses of the camera library: declarations only.
#ifndef ARDUINO_OV767X_H_
#define ARDUINO_OV767X_H_

enum { YUV422, QQVGA, OV7675, OV7670_VSYNC, OV7670_HREF, OV7670_PLK };

struct OV767X {
  int begin(int resolution, int format, int fps, int camera);
  void end();
};
extern OV767X Camera;

#endif  // ARDUINO_OV767X_H_
