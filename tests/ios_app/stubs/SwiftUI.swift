@_exported import Combine
@_exported import Foundation

@MainActor public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}
extension Never: View { public var body: Never { return fatalError() } }
public struct Whole: View {
    nonisolated public init() {}
    public var body: Never { return fatalError() }
}
extension Optional: View where Wrapped: View { public var body: Never { return fatalError() } }

@resultBuilder
public enum ViewBuilder {
    public static func buildExpression<V: View>(_ view: V) -> V { view }
    public static func buildBlock<each V: View>(_ views: repeat each V) -> Whole { Whole() }
    public static func buildIf<V: View>(_ view: V?) -> V? { view }
    public static func buildEither<V: View>(first view: V) -> Whole { Whole() }
    public static func buildEither<V: View>(second view: V) -> Whole { Whole() }
}

@MainActor public protocol Scene {
    associatedtype Body: Scene
    @SceneBuilder var body: Body { get }
}
extension Never: Scene {}
@resultBuilder public enum SceneBuilder { public static func buildBlock<S: Scene>(_ scene: S) -> S { scene } }
@MainActor public protocol App {
    associatedtype Body: Scene
    @SceneBuilder var body: Body { get }
    init()
}
extension App { public static func main() {} }

public struct WindowGroup: Scene {
    public init<V: View>(@ViewBuilder content: () -> V) {}
    public var body: Never { return fatalError() }
}

public enum ScenePhase { case background, inactive, active }
public struct EnvironmentValues { public var scenePhase: ScenePhase { .active } }
extension Scene {
    public func onChange<V: Equatable>(of value: V, initial: Bool = false, _ action: @escaping (V, V) -> Void)
        -> some Scene
    {
        self
    }
}

@propertyWrapper public struct Environment<Value> {
    public init(_ path: KeyPath<EnvironmentValues, Value>) {}
    public var wrappedValue: Value { fatalError() }
}
@propertyWrapper @MainActor public struct StateObject<Value: ObservableObject> {
    public init(wrappedValue: @autoclosure @escaping () -> Value) {}
    public var wrappedValue: Value { fatalError() }
}
@propertyWrapper @MainActor public struct ObservedObject<Value: ObservableObject> {
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
    public var wrappedValue: Value
}
public struct Binding<Value> {}
@propertyWrapper public struct State<Value> {
    public init(wrappedValue: Value) {}
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set {}
    }
    public var projectedValue: Binding<Value> { Binding() }
}

public struct Font {
    public static var body: Font { Font() }
    public func monospacedDigit() -> Font { self }
}
public struct TextInputAutocapitalization { public static var never: TextInputAutocapitalization { .init() } }
public enum ButtonRole { case destructive, cancel }
public struct Enabled { public static var enabled: Enabled { .init() } }
extension View {
    public func tag<V: Hashable>(_ value: V) -> some View { self }
    public func disabled(_ value: Bool) -> some View { self }
    public func font(_ font: Font?) -> some View { self }
    public func textSelection(_ value: Enabled) -> some View { self }
    public func navigationTitle(_ text: String) -> some View { self }
    public func autocorrectionDisabled(_ value: Bool = true) -> some View { self }
    public func textInputAutocapitalization(_ value: TextInputAutocapitalization?) -> some View { self }
}

public struct Text: View {
    public init(_ text: String) {}
    public var body: Never { return fatalError() }
}
public struct TextField: View {
    public init(_ title: String, text: Binding<String>) {}
    public var body: Never { return fatalError() }
}
public struct Form: View {
    public init<V: View>(@ViewBuilder content: () -> V) {}
    public var body: Never { return fatalError() }
}
public struct NavigationStack: View {
    public init<V: View>(@ViewBuilder root: () -> V) {}
    public var body: Never { return fatalError() }
}
public struct Section: View {
    public init<V: View>(_ title: String, @ViewBuilder content: () -> V) {}
    public var body: Never { return fatalError() }
}
public struct Picker: View {
    public init<S: Hashable, V: View>(_ title: String, selection: Binding<S>, @ViewBuilder content: () -> V) {}
    public var body: Never { return fatalError() }
}
public struct ForEach: View {
    public init<C: RandomAccessCollection, I: Hashable, V: View>(
        _ data: C, id: KeyPath<C.Element, I>, @ViewBuilder content: @escaping (C.Element) -> V
    ) {}
    public var body: Never { return fatalError() }
}
public struct Stepper: View {
    public init<V: Strideable>(_ title: String, value: Binding<V>, in range: ClosedRange<V>, step: V.Stride = 1) {}
    public var body: Never { return fatalError() }
}
public struct Button: View {
    public init(_ title: String, action: @escaping @MainActor () -> Void) {}
    public init(_ title: String, role: ButtonRole?, action: @escaping @MainActor () -> Void) {}
    public var body: Never { return fatalError() }
}
