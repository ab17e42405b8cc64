plugins {
    id("com.android.application")
}

val pytorch = "1.13.1"
val executorch = "1.4.1"
val onnxruntime = "1.27.0"

android {
    namespace = "org.deploykit.benchmark"
    compileSdk = 36

    defaultConfig {
        applicationId = "org.deploykit.benchmark"
        minSdk = 26
        targetSdk = 34
        versionCode = 1
        versionName = "1"
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }

    buildFeatures { buildConfig = true }

    // One app for each runtime: PyTorch's libfbjni.so works with no other version of it, and ExecuTorch brings another
    // (https://github.com/pytorch/pytorch/issues/78261). It also keeps a runtime's memory apart from the others'.
    flavorDimensions += "runtime"
    productFlavors {
        create("pytorch") {
            applicationIdSuffix = ".pytorch"
            buildConfigField("String", "RUNTIME", "\"libtorch $pytorch\"")
        }
        create("executorch") {
            applicationIdSuffix = ".executorch"
            buildConfigField("String", "RUNTIME", "\"executorch $executorch\"")
        }
        create("onnx") {
            applicationIdSuffix = ".onnx"
            buildConfigField("String", "RUNTIME", "\"onnxruntime $onnxruntime\"")
        }
    }

    buildTypes {
        release {
            // Measure with this one: Android checks every native call of a debuggable app.
            isMinifyEnabled = false
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    lint { disable += "ExpiredTargetSdkVersion" } // it is for no store

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    implementation(project(":core"))
    "pytorchImplementation"("org.pytorch:pytorch_android_lite:$pytorch") {
        exclude(group = "com.android.support") // its Java classes use nothing of it
    }
    "executorchImplementation"("org.pytorch:executorch-android:$executorch")
    "onnxImplementation"("com.microsoft.onnxruntime:onnxruntime-android:$onnxruntime")
}
